"""What is said of an option that a command does not have: the flag or setting that is meant."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

#: Commands that read a config, so that a setting can stand for an option.
WITH_SETTINGS = ("train", "eval", "sample", "compare")
#: What names the problems, by command: a flag, or a setting.
PROBLEMS = {"train": "data.train", "compare": "data.train", "eval": "--benchmark",
            "sample": "--file"}  # fmt: skip
PROBLEMS_NAMES = ("data", "dataset", "datasets", "train_data", "train_file")
#: Flags of `opsd train` for settings.
FLAGS_OF_TRAIN = {
    "train.steps": "--steps",
    "train.questions_per_step": "--batch",
    "optimizer.learning_rate": "--lr",
    "sampling.max_new_tokens": "--max-tokens",
    "sampling.temperature": "--temperature",
}


def hint_for(words: Sequence[str], option: str) -> str | None:
    """The flag or `--set` that an unknown option stands for; None if it is not known.

    Args:
        words: the command, as in ["train"].
        option: as typed, with its dashes.
    """
    from opsd_cli.cli.compare_options import INSTEAD, OF_EACH_METHOD

    command = words[0] if len(words) == 1 else ""
    if command not in WITH_SETTINGS:
        return None
    if command == "compare" and option in INSTEAD:
        return INSTEAD[option]
    if command == "compare" and option in OF_EACH_METHOD:
        return _for_methods(option, OF_EACH_METHOD[option])
    name = option.lstrip("-").replace("-", "_")
    if name in PROBLEMS_NAMES:
        return _given(command, PROBLEMS[command], _value(option) or "FILE")
    key, same = _key(name)
    if key is None:
        return None
    return _given(command, key, (_value(option) if same else "") or "VALUE")


def _given(command: str, key: str, value: str) -> str:
    """How to give a value that is meant for a flag or a key."""
    flag = key if key.startswith("-") else FLAGS_OF_TRAIN.get(key) if command == "train" else None
    said = f"{flag} {shlex.quote(value)}" if flag else f"--set {shlex.quote(f'{key}={value}')}"
    return f"did you mean {said}? `opsd {command} --help` lists the flags"


def _key(name: str) -> tuple[str | None, bool]:
    """The key that a name stands for, and whether both take the same values."""
    from opsd_cli.config.explain import FOREIGN
    from opsd_cli.config.schema import described_keys

    own = [
        key for key in described_keys() if name in (key.rpartition(".")[2], key.replace(".", "_"))
    ]
    if len(own) == 1:
        return own[0], True
    return FOREIGN.get(name), False


def _value(option: str) -> str:
    """What was typed after the option; empty if nothing was."""
    for place, word in enumerate(sys.argv):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option:
            after = sys.argv[place + 1 : place + 2]
            return "" if not after or after[0].startswith("--") else after[0]
    return ""


def _for_methods(option: str, key: str) -> str:
    """How to give the methods of a comparison a value that `opsd train` has a flag for."""
    value = _value(option) or "VALUE"
    return (
        f"the methods have a {key} of their own: --set {key}={value} gives all of them this one, "
        f"--set methods.grpo.{key}={value} a single method"
    )
