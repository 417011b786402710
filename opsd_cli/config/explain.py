"""Config mistakes as one line that says what is wrong and one that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from opsd_cli.config.schema import key_paths
from opsd_cli.errors import ConfigError

#: Maximum length, in characters, of a wrong value in an error line.
SHOWN = 80
#: Last parts of keys as other programs call them, and the key meant.
FOREIGN = {
    "base_model": "model",
    "batch_size": "train.questions_per_step",
    "bf16": "train.dtype",
    "dataset": "data.train",
    "datasets": "data.train",
    "epochs": "train.steps",
    "eval_steps": "train.evaluate_every",
    "gradient_accumulation_steps": "train.micro_batch_tokens",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_r": "lora.rank",
    "lora_target_modules": "lora.targets",
    "lr": "optimizer.learning_rate",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "max_completion_length": "sampling.max_new_tokens",
    "max_steps": "train.steps",
    "max_tokens": "sampling.max_new_tokens",
    "micro_batch_size": "train.micro_batch_tokens",
    "model_name_or_path": "model",
    "stop_strings": "sampling.stop",
    "num_fewshot": "prompts.few_shot.examples",
    "num_epochs": "train.steps",
    "num_generations": "rollouts.per_question",
    "num_train_epochs": "train.steps",
    "per_device_train_batch_size": "train.questions_per_step",
    "r": "lora.rank",
    "report_to": "log",
    "save_steps": "train.checkpoint_every",
    "target_modules": "lora.targets",
    "temperature": "sampling.temperature",
    "top_k": "sampling.top_k",
    "top_p": "sampling.top_p",
    "warmup_ratio": "optimizer.warmup_steps",
}

Locator = Callable[[Sequence[str | int]], tuple[int, int, str]]
"""Gives the layer, line and words of the place where a key is set."""


def suggest(word: str, known: Sequence[str], otherwise: str) -> str:
    """A hint: the known word closest to a misspelt one, or the command that lists them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"see `{otherwise}`"


def explain(error: ValidationError, place_of: Locator) -> ConfigError:
    """Every validation failure, with the key's help text or the nearest key as the hint.

    Args:
        place_of: gives the place of a key, for the order of the mistakes and their words.

    Returns:
        The first mistake in the order of files and lines, with the others beside it.
    """
    found = []
    for failure in error.errors(include_url=False):
        *order, words = place_of(failure["loc"])
        mistake = _explained(failure)
        if words:
            mistake = ConfigError(f"{words}: {mistake.message}", mistake.hint, mistake.located)
        found.append((order, mistake))
    return ConfigError.of([mistake for _, mistake in sorted(found, key=lambda pair: pair[0])])


def _explained(failure: Any) -> ConfigError:
    path = ".".join(str(part) for part in failure["loc"])
    if failure["type"] in ("extra_forbidden", "invalid_key"):
        return ConfigError(f"unknown config key {shown(path)}", _nearest_key(path), True)
    message = str(failure["msg"]).removeprefix("Value error, ")
    if not path:  # a validator of `Config`, whose second line is the hint
        message, _, hint = message.partition("\n")
        return ConfigError(message, hint)
    fields = dict(key_paths())
    field = next((path[: len(name)] for name in _prefixes(path) if name in fields), path)
    hint = " ".join((fields[field].description or "").split()) if field in fields else ""
    got = shown(failure["input"])
    return ConfigError(f"{path[:SHOWN]}: {message[0].lower()}{message[1:]}, got {got}", hint, True)


def _nearest_key(path: str) -> str:
    """A hint with the key that is meant: first by its last part, then by the whole path."""
    known = [name for name, _ in key_paths()]
    section, _, leaf = path[:SHOWN].rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    near = (
        FOREIGN.get(leaf),
        _close(leaf, siblings),
        _nearest([name for name in known if _leaf(name) == leaf], path),
        _close(leaf, known),
        next(iter(difflib.get_close_matches(path[:SHOWN], known, n=1, cutoff=0.75)), None),
    )
    found = next((name for name in near if name is not None), None)
    return f"did you mean {found!r}?" if found else "see `opsd presets keys`"


def _close(leaf: str, keys: Sequence[str]) -> str | None:
    """The first key whose last part is the closest to a word."""
    parts = list(map(_leaf, keys))
    close = difflib.get_close_matches(leaf, parts, n=1, cutoff=0.6)
    return keys[parts.index(close[0])] if close else None


def _nearest(keys: Sequence[str], path: str) -> str | None:
    return next(iter(difflib.get_close_matches(path[:SHOWN], keys, n=1, cutoff=0.0)), None)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


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
