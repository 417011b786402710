"""A model's files: found, checked before any library loads them, and failures explained in a line.

transformers and the hub's client report a mistyped folder as a failed download and a missing
licence as a missing file. Files on disk are therefore checked first, and exceptions are translated
by their type.

The model families under test are tests/support/tiny_models.py::FAMILIES, the chat templates
tests/support/chat_models.py::FAMILIES; CONTRIBUTING.md has the steps that add a family.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backends.shared import rotary, weight_files
from backends.shared.adapter_files import CONFIG_FILE as ADAPTER_CONFIG_FILE
from backends.shared.missing_tokenizer import no_tokenizer
from opsd_cli import hub
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DID_YOU_MEAN = "did you mean a folder? name one that holds config.json and *.safetensors"


def require_model(name: str) -> str:
    """The folder or hub id to load, after the checks that need no library.

    Raises:
        ModelError: it is no model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        files = {file.name for file in path.iterdir()}
        if "config.json" not in files:
            is_adapter = ADAPTER_CONFIG_FILE in files
            raise ModelError(
                f"{name} holds no model: config.json is missing",
                "it holds an adapter: pass it with --adapter, and its base with --model"
                if is_adapter
                else "name the folder that holds config.json and *.safetensors",
            )
        if ADAPTER_CONFIG_FILE in files:
            raise ModelError(
                f"{name} holds a model and an adapter in one folder",
                f"put {ADAPTER_CONFIG_FILE} and its weights into a folder of their own, and pass "
                "it with --adapter",
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
        raise ModelError(f"no model folder at {name}", weight_files.nearest_folder(path))
    hub.reach()
    return name


def as_model_error(error: Exception, name: str, what: str) -> ModelError:
    """The `ModelError` that explains an exception of transformers' or the hub's in one line."""
    text = " ".join(str(link) for link in hub.causes(error))
    of_the_hub = hub.as_hub_error(error, name, "model")
    if of_the_hub is not None and not Path(name).is_dir():
        assert isinstance(of_the_hub, ModelError)
        return of_the_hub
    if "trust_remote_code" in text:
        return ModelError(
            f"{name} brings model code of its own",
            "read it, and if you trust it, pass --trust-remote-code",
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
        f"the {what} of {name} cannot be loaded: {said(error)}",
        "run with --debug for the whole story",
    )


def model_folder(config: Config) -> Path:
    """The folder that `config.model` is loaded from, downloaded if need be, and checked.

    Raises:
        ModelError: there is no such model, or one of its files is damaged.
    """
    where = require_model(config.model_path)
    folder = Path(where)
    if not folder.is_dir():
        folder = hub_folder(where, config.revision, code=config.trust_remote_code)
        require_model(str(folder))
    weight_files.require_whole(folder)
    return folder


def load_tokenizer(folder: Path, config: Config) -> Any:
    """transformers' tokenizer of a model.

    Raises:
        ModelError: there is none that can be used.
    """
    from transformers import AutoTokenizer

    with quiet(hide_progress=True):
        try:
            wrapped: Any = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=config.trust_remote_code
            )
            vocabulary = wrapped.get_vocab()
            special = wrapped.all_special_tokens
        except Exception as error:
            found = as_model_error(error, config.model, "tokenizer")
            raise no_tokenizer(folder, config.model, config.trust_remote_code) or found from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of a library written in Rust
                raise
            raise ModelError(
                f"the tokenizer of {config.model} cannot be loaded: {said(error)}",
                "download the model again, whole",
            ) from error
    if not set(vocabulary) - set(special):
        # Without tokenizer files, some architectures get a tokenizer that cannot encode text.
        raise no_tokenizer(folder, config.model, config.trust_remote_code) or ModelError(
            f"{config.model} has no tokenizer", "put tokenizer.json beside its config.json"
        )
    return wrapped


def stop_ids(folder: Path, settings: Mapping[str, Any], tokenizer: Any) -> frozenset[int]:
    """The generation config's stop ids, else the model's, else the tokenizer's.

    Args:
        folder: the model's.
        settings: its config.json.
        tokenizer: transformers'.

    Raises:
        ModelError: an entry is no token id.
    """
    ends = settings.get("eos_token_id")
    source = folder / "config.json"
    if ends is None and isinstance(settings.get("text_config"), dict):
        ends = settings["text_config"].get("eos_token_id")
    generation = folder / "generation_config.json"
    if generation.is_file():
        source = generation
        ends = weight_files.read_object(generation).get("eos_token_id", ends)
    if ends is None:
        ends = tokenizer.eos_token_id
    found = [] if ends is None else ends if isinstance(ends, list) else [ends]
    for end in found:
        if isinstance(end, bool) or not isinstance(end, int) or end < 0:
            raise ModelError(
                f"{source}: eos_token_id holds {str(end)[:80]!r}, which is no token id",
                "it must be a number or a list of numbers",
            )
    return frozenset(found)


def said(error: BaseException) -> str:
    """The message of an exception on one line that fits a screen."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def hub_folder(name: str, revision: str | None, code: bool = False, weights: bool = True) -> Path:
    """The local folder of a hub repository's model files, downloaded if need be.

    Args:
        name: ORG/NAME.
        revision: branch, tag or commit.
        code: whether to download the model's own code too.
        weights: whether to download the weights too.

    Raises:
        ModelError: they cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.jinja", "*.txt", "*.model"]
    if weights:
        wanted.append("*.safetensors")
    #: The same weights in other forms.
    unwanted = ["consolidated*", "original/*", "onnx/*"]
    try:
        with quiet(hide_progress=False):
            return Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=[*wanted, "*.py"] if code else wanted,
                    ignore_patterns=unwanted,
                )
            )
    except Exception as error:
        raise as_model_error(error, name, "model") from error


def read_settings(name: str, revision: str | None) -> dict[str, Any]:
    """The config.json of a folder or hub repository; no weights are downloaded.

    Raises:
        ModelError: there is none that can be read.
    """
    try:
        return weight_files.read_object(_small_file(name, "config.json", revision))
    except ModelError:
        raise
    except Exception as error:
        raise as_model_error(error, name, "config.json") from error


def transformers_config(folder: Path, config: Config) -> Any | None:
    """transformers' config of a folder; None for a model type that it does not know.

    Raises:
        ModelError: it knows the type, and config.json does not describe one.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    settings = read_settings(str(folder), None)
    known = settings.get("model_type") in CONFIG_MAPPING
    try:
        with quiet(hide_progress=True):
            return AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        if not known:
            return None
        raise as_model_error(error, config.model, "config.json") from error


def write_both_spellings(folder: Path) -> None:
    """Add the older spelling of its rotary embedding to the config.json of an export.

    transformers 5 writes `rope_parameters` alone, which mlx-lm's classes for most architectures,
    and programs built on transformers 4, do not read: they would take their defaults instead.
    """
    from transformers import AutoConfig

    path = folder / "config.json"

    def meant() -> Any:
        return AutoConfig.from_pretrained(folder)

    def write(settings: dict[str, Any]) -> None:
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    plain = json.loads(path.read_text(encoding="utf-8"))
    try:
        before = meant()
    except Exception:  # a kind of the model's own code, whose spelling is left as it is
        return
    write(rotary.with_both_spellings(plain, before))
    try:
        same = rotary.same(meant(), before)
    except Exception:
        same = False
    if not same:  # a class to which the older keys mean something else
        write(plain)


def read_generation_settings(name: str, revision: str | None) -> dict[str, Any]:
    """The generation_config.json of a folder or hub repository; empty where there is none."""
    try:
        path = _small_file(name, "generation_config.json", revision)
        return weight_files.read_object(path) if path.is_file() else {}
    except ModelError:
        raise
    except Exception:
        return {}


def _small_file(name: str, file: str, revision: str | None) -> Path:
    where = require_model(name)
    path = Path(where) / file
    if Path(where).is_dir():
        return path
    from huggingface_hub import hf_hub_download

    with quiet(hide_progress=True):
        return Path(hf_hub_download(where, file, revision=revision))


def commit_of(config: Config) -> str | None:
    """The commit of a hub model, as last resolved; None for a folder.

    Raises:
        ModelError: it cannot be resolved.
    """
    if config.is_local:
        return None
    try:
        path = _small_file(config.model_path, "config.json", config.revision)
    except ModelError:
        raise
    except Exception as error:
        raise as_model_error(error, config.model, "config.json") from error
    # .../snapshots/COMMIT/config.json
    return path.parent.name


def digest_of_adapter(folder: str | None) -> str | None:
    """A digest of an adapter's weights, independent of the folder that they are in."""
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("adapter*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def quiet(hide_progress: bool) -> Iterator[None]:
    """transformers and the hub's client without their warnings (of retries, say), and without
    progress bars if nothing is downloaded or stderr is not a terminal."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    of_the_hub = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if hide_progress or not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(of_the_hub)
        if bars:
            transformers_logging.enable_progress_bar()
