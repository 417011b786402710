"""Typing `opsd` commands in a test's own process."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from opsd_cli.cli.app import main

Opsd = Callable[[str], tuple[int, str, str]]
"""Types a command; returns its exit code, standard output and standard error."""

#: A training run of four steps.
QUICK = "--set train.steps=4 --set train.evaluate_every=2 --set train.questions_per_step=8"


def typed(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `opsd` with the words of a command; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["opsd", *shlex.split(command)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)
