"""Config mistakes as one line that says what is wrong and one that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from opsd_cli.config.schema import key_paths
from opsd_cli.errors import ConfigError

#: Maximum length, in characters, of a wrong value in an error line.
SHOWN = 80
#: Last parts of keys as other programs call them, and the key meant.
FOREIGN = {
    "batch_size": "train.questions_per_step",
    "epochs": "train.steps",
    "lr": "optimizer.learning_rate",
    "max_steps": "train.steps",
    "max_tokens": "sampling.max_new_tokens",
    "stop_strings": "sampling.stop",
    "num_fewshot": "prompts.few_shot.examples",
    "num_epochs": "train.steps",
}


def suggest(word: str, known: Sequence[str], otherwise: str) -> str:
    """A hint: the known word closest to a misspelt one, or the command that lists them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"see `{otherwise}`"


def explain(error: ValidationError) -> ConfigError:
    """The first validation failure, with the key's help text or the nearest key as the hint."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("extra_forbidden", "invalid_key"):
        return ConfigError(f"unknown config key {shown(path)}", _nearest_key(path))
    message = str(first["msg"]).removeprefix("Value error, ")
    if not path:  # a validator of `Config`, whose second line is the hint
        message, _, hint = message.partition("\n")
        return ConfigError(message, hint)
    fields = dict(key_paths())
    field = next((path[: len(name)] for name in _prefixes(path) if name in fields), path)
    hint = " ".join((fields[field].description or "").split()) if field in fields else ""
    return ConfigError(
        f"{path[:SHOWN]}: {message[0].lower()}{message[1:]}, got {shown(first['input'])}", hint
    )


def _nearest_key(path: str) -> str:
    known = [name for name, _ in key_paths()]
    section, _, leaf = path[:SHOWN].rpartition(".")
    near = (
        FOREIGN.get(leaf),
        _close(leaf, [name for name in known if name.rpartition(".")[0] == section], section),
        _close(path, known),
        next((name for name in known if name.rpartition(".")[2] == leaf), None),
    )
    found = next((name for name in near if name is not None), None)
    return f"did you mean {found!r}?" if found else "see `opsd presets keys`"


def _close(word: str, keys: Sequence[str], section: str = "") -> str | None:
    """The key closest to a word; with a section, whose keys they are, by their last parts."""
    prefix = f"{section}." if section else ""
    parts = [key.removeprefix(prefix) for key in keys]
    close = difflib.get_close_matches(word[:SHOWN], parts, n=1, cutoff=0.6)
    return prefix + close[0] if close else None


def _prefixes(path: str) -> Iterator[str]:
    """A dotted key and the sections that contain it, the longest first."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        yield ".".join(parts[:count])


def shown(value: Any) -> str:
    """A value in at most `SHOWN` characters of one line."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return "a number of a hundred digits or more"
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
