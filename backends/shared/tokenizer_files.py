"""The tokenizer's files of an exported model: those of the base, as other programs read them.

transformers 5 writes a tokenizer in a form of its own. It leaves out `add_bos_token`, and
`tokenizer.model`, which llama.cpp's conversion needs for some families; it names a class and a list
that transformers 4, on which that conversion is built, refuses. Training does not change a
tokenizer, so the base's files go along as they are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

_CONFIG = "tokenizer_config.json"
#: A tokenizer's files in the folder of a model.
_FILES = (
    _CONFIG, "tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.json",
    "merges.txt", "vocab.txt", "added_tokens.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip
#: transformers 5's name of a class -> the one that 4 and 5 know.
_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
#: transformers 4 reads a mapping in this key, and 5 writes a list.
_EXTRA, _ADDITIONAL = "extra_special_tokens", "additional_special_tokens"


def save_tokenizer(tokenizer: Any, base: Path, folder: Path) -> None:
    """Write a model's tokenizer, for transformers 4 and 5 and for llama.cpp.

    Args:
        tokenizer: transformers', as loaded from the base; it writes what the base has no file for.
        base: the folder of the base model.
        folder: of the export.

    Raises:
        OSError: a file cannot be read or written.
    """
    tokenizer.save_pretrained(folder)
    written = _read(folder / _CONFIG)
    if "auto_map" in written:  # code of the tokenizer's own, of which these settings name the place
        return
    for name in _FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    settings = _read(folder / _CONFIG)
    readable = _for_both_versions(settings)
    if readable != settings:
        text = json.dumps(readable, indent=2, ensure_ascii=False) + "\n"
        (folder / _CONFIG).write_text(text, encoding="utf-8")


def _for_both_versions(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a tokenizer in the spelling that transformers 4 and 5 read."""
    settings = dict(settings)
    name = settings.get("tokenizer_class")
    if isinstance(name, str):
        settings["tokenizer_class"] = _CLASSES.get(name, name)
    extra = settings.get(_EXTRA)
    if isinstance(extra, list):
        del settings[_EXTRA]
        settings[_ADDITIONAL] = extra
    return settings


def _read(path: Path) -> dict[str, Any]:
    """The settings of a tokenizer that transformers has loaded; empty where there are none."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
