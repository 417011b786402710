"""The settings that a command was typed with, for hints that name another command for the same.

A hint such as "opsd sample --show-prompts" is about the config of the command that failed: typed
alone it would show the embedded model. The command line notes its settings here, and the hints of
every layer take them from here.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

#: None until a command line is read, as in a program that imports opsd.
_typed: list[str] | None = None
#: Sections of a config that say how problems are read and graded.
_READ_BY_CHECKS = ("data.", "grading.", "teacher.")
#: What a hint says instead of the settings, where they are not known.
SAME = "(with the same settings)"


def note(words: Sequence[str] | None) -> None:
    """Note the words of the command line that set the config, as in ["--set", "seed=1"]."""
    global _typed
    _typed = None if words is None else list(words)


def words(configs: Sequence[str], assignments: Sequence[str]) -> list[str]:
    """`--config` and `--set` as words of a command line."""
    given = (("--config", configs), ("--set", assignments))
    return [word for flag, values in given for each in values for word in (flag, each)]


def command(own: str) -> str:
    """An `opsd` command with the settings that were typed.

    Args:
        own: the command and its own flags, as in "train --preflight-only".
    """
    return _with(own, _typed)


def data_check(source: str) -> str:
    """The command that lists what is wrong in a set, read as the config that was typed reads it."""
    kept: list[str] = []
    for flag, value in zip(_typed or (), (_typed or ())[1:], strict=False):
        read = value.startswith(_READ_BY_CHECKS) and not value.startswith("data.train=")
        if flag == "--config" or (flag == "--set" and read):
            kept += [flag, value]
    return _with(f"data check {shlex.quote(source)}", None if _typed is None else kept)


def _with(own: str, settings: Sequence[str] | None) -> str:
    if settings is None:
        return f"opsd {own} {SAME}"
    return " ".join(["opsd", own, *map(shlex.quote, settings)])
