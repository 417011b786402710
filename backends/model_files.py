"""What `model` names, looked at before any library loads it, and what went wrong if one did not.

transformers and the hub's client report a mistyped folder as a failed download and a missing
licence as a missing file. What can be seen on disk is therefore looked at first, and what comes
back as an exception is translated by its type.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import errors as hub
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from opsd_cli.errors import ModelError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DID_YOU_MEAN = "did you mean a folder? name one that holds config.json and *.safetensors"


def require_model(name: str) -> str:
    """The folder or hub id to load, once what can be seen from here has been checked."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = {file.name for file in path.iterdir()}
        if "config.json" not in files:
            is_adapter = "adapter_config.json" in files
            raise ModelError(
                f"{name} holds no model: config.json is missing",
                "it holds an adapter: pass it with --adapter, and its base with --model"
                if is_adapter
                else "name the folder that holds config.json and *.safetensors",
            )
        if not any(file.endswith(".safetensors") for file in files):
            raise ModelError(
                f"{name} holds no *.safetensors weights",
                "only safetensors are read; transformers' save_pretrained writes them",
            )
        return str(path)
    if path.exists():
        raise ModelError(f"{name} is a file, not a model", _DID_YOU_MEAN)
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelError(f"no model folder at {name}", "check the path; a hub id is ORG/NAME")
    return name


def explained(error: Exception, name: str, what: str) -> ModelError:
    """The `ModelError` that says in one line what transformers and the hub meant."""
    chain = list(_causes(error))
    text = " ".join(str(link) for link in chain)
    if _any(chain, hub.GatedRepoError) or "gated repo" in text:
        return ModelError(
            f"{name} is gated: its licence must be accepted first",
            f"accept it at https://huggingface.co/{name}, then run `hf auth login`",
        )
    if _any(chain, hub.RevisionNotFoundError):
        return ModelError(f"{name} has no such revision", "check `revision`")
    if _any(chain, hub.RepositoryNotFoundError):
        return ModelError(
            f"there is no {name} on the hub, or it is private",
            f"{_DID_YOU_MEAN}; for a private model run `hf auth login`",
        )
    if _any(chain, hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError) or (
        "connect to" in text and "huggingface" in text
    ):
        return ModelError(
            f"there is no folder {name}, and the hub cannot be reached",
            f"{_DID_YOU_MEAN}; or check the network and HF_HUB_OFFLINE",
        )
    if "trust_remote_code" in text:
        return ModelError(
            f"{name} brings model code of its own",
            "read it, and if you trust it, set trust_remote_code to true",
        )
    if what == "model" and "AutoModelForCausalLM" in text:
        return ModelError(
            f"{name} is not a causal language model", "choose one that continues text"
        )
    if "does not appear to have a file named" in text and "safetensors" in text:
        return ModelError(
            f"{name} has no *.safetensors weights",
            "choose a revision that does, or save them anew with transformers' save_pretrained",
        )
    return ModelError(
        f"the {what} of {name} cannot be loaded: {first_line(error)}",
        "run with --debug for the whole story",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _any(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(link, kinds) for link in chain)


def hub_folder(name: str, revision: str | None) -> Path:
    """Where a hub repository's model files are on this machine, once they are downloaded.

    Raises:
        ModelError: they are not, and cannot be.
    """
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        with quiet(hide_progress=False):
            return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise explained(error, name, "model") from error


def read_settings(name: str, revision: str | None) -> dict[str, Any]:
    """The config.json of a folder or hub repository; no weights are downloaded.

    Raises:
        ModelError: there is none that can be read.
    """
    where = require_model(name)
    path = Path(where) / "config.json"
    try:
        if not path.is_file():
            from huggingface_hub import hf_hub_download

            with quiet(hide_progress=True):
                path = Path(hf_hub_download(where, "config.json", revision=revision))
        return json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise explained(error, name, "config.json") from error


def first_line(error: BaseException) -> str:
    """What an exception says, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet(hide_progress: bool) -> Iterator[None]:
    """transformers and the hub's client without their warnings (of retries, say), and without
    progress bars where nothing is downloaded."""
    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    of_the_hub = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if hide_progress:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(of_the_hub)
        if bars:
            transformers_logging.enable_progress_bar()
