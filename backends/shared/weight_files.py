"""Checks of a model's files before its weights are read.

Weights are read from safetensors alone: the older format runs code when it is opened. The libraries
choose the format by the names that `model.safetensors.index.json` gives, so those are read here
first. A file's header is checked before a library parses it, because one of a million tensors
takes half a minute and gigabytes; a valid header lists the tensors, and config.json cannot describe
more layers than that.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_cli import hub
from opsd_cli.domain_files import how_to_make
from opsd_cli.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: The largest in use are a tenth of these: a 1 MB header, 10,000 tensors per file.
MOST_HEADER_BYTES = 10 * 2**20
MOST_TENSORS = 100_000
#: The largest index in use has 15 MB, the largest config.json half a megabyte.
MOST_JSON_BYTES = 64 * 2**20
AGAIN = "download the model again, whole"
#: Names of the number of layers.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WHOLE_NUMBER = 2**48
#: Bytes at either end of a file that `quick_digest` reads.
_SAMPLED = 2**20
#: safetensors' names of the dtypes that a model is stored in -> the libraries'.
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Args:
        names: names of its tensors.
        values: how many numbers they hold together.
        matrices: names of those with two dimensions.
    """

    names: tuple[str, ...]
    values: int
    matrices: tuple[str, ...] = ()


def read_object(path: Path, verb: str = "loaded") -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: the file.
        verb: participle for the message: the file "cannot be `verb`".

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        size = path.stat().st_size
        if size > MOST_JSON_BYTES:
            raise ModelError(
                f"{path} cannot be {verb}: {size:,} bytes are more than such a file has", AGAIN
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelError(f"{path} cannot be {verb}: it is nested too deeply", AGAIN) from None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be {verb}: {error.strerror or error}",
            "check the file and its permissions",
        ) from error
    except ValueError as error:  # no JSON, or no UTF-8
        if hub.is_lfs_pointer(path.read_bytes()[:64]):
            raise _pointer(path, verb) from error
        what = "is empty" if size == 0 else f"is not JSON: {' '.join(str(error).split())[:200]}"
        raise ModelError(f"{path} cannot be {verb}: it {what}", AGAIN) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} cannot be {verb}: it holds no JSON object", AGAIN)
    return found


def require_whole(folder: Path) -> None:
    """Check a folder's JSON files and its weights' headers.

    Raises:
        ModelError: one is damaged, the index names weights that are missing or not safetensors, or
            config.json describes more layers than there are tensors.
    """
    settings = read_object(folder / "config.json")
    _require_numbers(settings, folder / "config.json")
    for path in sorted(folder.glob("*.json")):
        if path.name not in ("config.json", "tokenizer.json", "vocab.json"):
            _require_json(path)
    headers = [read_header(path) for path in weight_files(folder)]
    _require_layers(settings, sum(len(header.names) for header in headers), folder)


def quick_digest(folder: Path) -> str:
    """A digest that tells a model's files from others, without reading all of the weights.

    It covers config.json, and of each weights' file its name, its size and its first and last MiB.

    Raises:
        ModelError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    try:
        digest.update((folder / "config.json").read_bytes())
        for path in weight_files(folder):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLED))
                file.seek(max(0, size - _SAMPLED))
                digest.update(file.read())
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}", AGAIN) from error
    return digest.hexdigest()[:16]


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights are read from.

    Raises:
        ModelError: the index names one that is not safetensors, not in the folder, or not there.
    """
    names = {path.name for path in folder.glob("model*.safetensors")}
    index = folder / INDEX
    if index.is_file():
        listed = read_object(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(n, str) for n in listed.values()):
            raise ModelError(f"{index} does not say which file holds which weight", AGAIN)
        for name in sorted(set(listed.values())):
            if not name.endswith(".safetensors"):
                raise ModelError(
                    f"{index} names {name[:80]!r}, which is not safetensors",
                    "only safetensors are read; transformers' save_pretrained writes them",
                )
            if Path(name).name != name or "\\" in name:
                raise ModelError(f"{index} names {name[:80]!r}, outside its folder", AGAIN)
            if not (folder / name).is_file():
                raise ModelError(f"{folder} lacks {name[:80]!r}, which its index names", AGAIN)
            names.add(name)
    if not names:
        raise ModelError(f"{folder} holds neither {SINGLE} nor {INDEX}", AGAIN)
    return [folder / name for name in sorted(names)]


def read_header(path: Path, verb: str = "loaded") -> Header:
    """The header of a safetensors file, after a check of its size.

    Args:
        path: the file.
        verb: participle for the message: the file "cannot be `verb`".

    Raises:
        ModelError: it is damaged, cut off, or larger than any in use.
    """
    from safetensors import SafetensorError, safe_open

    hint = "the file may be cut off; copy or download it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
            if hub.is_lfs_pointer(start):
                raise _pointer(path, verb)
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            if size < 8 or length > size - 8:
                raise ModelError(f"{path} cannot be {verb}: it is no whole safetensors file", hint)
            if length > MOST_HEADER_BYTES:
                raise ModelError(
                    f"{path} cannot be {verb}: its header of {length:,} bytes is too large", hint
                )
            header = file.read(length)
        if header.count(b'"data_offsets"') > MOST_TENSORS:
            raise ModelError(
                f"{path} cannot be {verb}: it names more than {MOST_TENSORS:,} tensors", hint
            )
        with safe_open(path, "numpy") as opened:
            names = tuple(opened.keys())
            shapes = [opened.get_slice(name).get_shape() for name in names]
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        if "not fully covered" in said:
            said = "its size is not what its header says"
        raise ModelError(f"{path} cannot be {verb}: {said}", hint) from error
    matrices = tuple(name for name, shape in zip(names, shapes, strict=True) if len(shape) == 2)
    return Header(names, sum(math.prod(shape) for shape in shapes), matrices)


def linear_paths(folder: Path) -> list[str] | None:
    """Paths of the linear layers by the headers of the weights, without embeddings and heads.

    Returns:
        None for a model whose layers the files name otherwise: mixtures of experts, which the
        libraries put together when they load them.
    """
    names = [name for path in weight_files(folder) for name in read_header(path).matrices]
    if any("expert" in name for name in names):
        return None
    paths = [path for path, _, kind in (n.rpartition(".") for n in names) if kind in _OF_LINEAR]
    return [path for path in paths if not _NOT_LINEAR.search(path)]


#: Last parts of a linear layer's tensors, plain and quantised.
_OF_LINEAR = ("weight", "qweight")
_NOT_LINEAR = re.compile(r"embed|lm_head|(^|\.)(wte|wpe)$")


def nearest_folder(path: Path) -> str:
    """A hint for a folder that does not exist."""
    if (made := how_to_make(path)) is not None:
        return made
    with contextlib.suppress(OSError):
        there = [each.name for each in path.parent.iterdir() if (each / "config.json").is_file()]
        close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.7)
        if close:
            return f"did you mean {path.parent / close[0]}?"
    return "check the path; a hub id is ORG/NAME"


def _pointer(path: Path, verb: str) -> ModelError:
    return ModelError(
        f"{path} cannot be {verb}: it is a Git LFS pointer, not the file itself", hub.LFS_HINT
    )


def stored_dtype(folder: Path) -> str:
    """The dtype of a model's files: "float32", "bfloat16" or "float16".

    Its config.json may say it at the top or for the text model; otherwise the largest tensor of
    floating-point numbers does. A quantised model has that of its scales.

    Raises:
        ModelError: the files cannot be read.
    """
    from safetensors import safe_open

    settings = read_object(folder / "config.json")
    for level in (settings, settings.get("text_config") or {}):
        named = level.get("dtype") or level.get("torch_dtype") or ""
        if str(named).removeprefix("torch.") in _DTYPES.values():
            return str(named).removeprefix("torch.")
    sizes = {"F32": 0}
    for path in weight_files(folder):
        read_header(path)
        with safe_open(path, "numpy") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                tensor = opened.get_slice(name)
                kind = tensor.get_dtype()
                sizes[kind] = max(sizes.get(kind, 0), math.prod(tensor.get_shape()))
    return _DTYPES[max(_DTYPES, key=lambda kind: sizes.get(kind, -1))]


def _require_json(path: Path) -> None:
    """Check that a file holds JSON: an object where transformers expects one."""
    try:
        read_object(path)
    except ModelError as error:
        if error.message.endswith("holds no JSON object") and path.name not in _OBJECTS:
            return
        raise


#: Files that transformers expects to hold JSON objects.
_OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    INDEX,
)


def _require_numbers(settings: Mapping[str, Any], path: Path) -> None:
    """Check that no number in the settings is beyond any size in use: libraries count with 64 bits.

    Raises:
        ModelError: one is.
    """
    for key, value in settings.items():
        if isinstance(value, dict):
            _require_numbers(value, path)
        elif isinstance(value, int) and abs(value) > _WHOLE_NUMBER:
            raise ModelError(f"{path}: {key[:80]} is {value:.3g}, which nothing can be", AGAIN)


def _require_layers(settings: Mapping[str, Any], tensors: int, folder: Path) -> None:
    for level in (settings, settings.get("text_config")):
        if not isinstance(level, dict):
            continue
        for key in _LAYERS:
            count = level.get(key)
            if isinstance(count, int) and count > tensors:
                raise ModelError(
                    f"the config.json of {folder} says {key} {count:,}, and the weights have "
                    f"{tensors:,} tensors",
                    AGAIN,
                )
