"""From what `model` names to a frozen model and its tokenizer, or one line that says why not.

transformers reports a mistyped folder as a failed download, a missing licence as a missing file,
and weights that do not belong to the architecture as a warning followed by random numbers. What
can be seen on disk is therefore looked at first, what comes back as an exception is translated by
its type, and a model any of whose weights were not found is refused.

Only safetensors are read: the older format runs code when it is opened.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from backends.pytorch.adapter import first_line
from backends.tokenizer import HuggingFaceTokenizer
from opsd_cli.config import Config
from opsd_cli.errors import ModelError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DID_YOU_MEAN = "did you mean a folder? name one that holds config.json and *.safetensors"


@dataclass(frozen=True)
class Loaded:
    """A frozen model on the CPU, and what came with it.

    Args:
        model: transformers' causal language model.
        tokenizer: behind the shared half's surface.
        stop_ids: ids that end a completion.
        vocabulary: one more than the tokenizer's highest id.
    """

    model: Any
    tokenizer: HuggingFaceTokenizer
    stop_ids: frozenset[int]
    vocabulary: int


def load(config: Config, dtype: torch.dtype) -> Loaded:
    """Load `config.model` in the given dtype, every parameter frozen.

    Raises:
        ModelError: there is no such model, or none that can be used, and why.
    """
    where = _require_model(config.model_path)
    common = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with _quiet(hide_progress=Path(where).is_dir()):
        try:
            wrapped = AutoTokenizer.from_pretrained(where, **common)
        except Exception as error:
            raise _explained(error, config.model, "tokenizer") from error
        if not set(wrapped.get_vocab()) - set(wrapped.all_special_tokens):
            # For lack of files some architectures get a tokenizer that knows no text.
            raise ModelError(
                f"{config.model} has no tokenizer", "put tokenizer.json beside its config.json"
            )
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **common,
            )
        except Exception as error:
            raise _explained(error, config.model, "model") from error
    absent = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if absent:
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ModelError(
            f"the weights of {config.model} do not go with its config.json: "
            f"{absent[0]}{others} missing or of another shape",
            "download the model again, whole",
        )
    model.requires_grad_(False)
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = wrapped.eos_token_id
    stops = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return Loaded(
        model=model,
        tokenizer=HuggingFaceTokenizer(wrapped),
        stop_ids=frozenset(stops),
        vocabulary=max(wrapped.get_vocab().values()) + 1,
    )


def _require_model(name: str) -> str:
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
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelError(f"no model folder at {name}", "check the path; a hub id is ORG/NAME")
    return name


def _explained(error: Exception, name: str, what: str) -> ModelError:
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


@contextlib.contextmanager
def _quiet(hide_progress: bool) -> Iterator[None]:
    """transformers without its warnings, and without progress bars where nothing is downloaded."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if hide_progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
