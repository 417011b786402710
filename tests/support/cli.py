"""Typing `opsd` commands in a test's own process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import backends
from opsd_cli.cli.app import main
from tests.support.bad_input import GOOD

Opsd = Callable[[str], tuple[int, str, str]]
"""Types a command; returns its exit code, standard output and standard error."""

#: Said of a model or data set, in tests of commands, which run without the network.
NOT_AT_HAND = "is not in the cache, and offline mode is on"
#: A training run of four steps.
QUICK = "--set train.steps=4 --set train.evaluate_every=2 --set train.questions_per_step=8"


def typed(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `opsd` with the words of a command; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["opsd", *shlex.split(command)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture
def opsd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Opsd:
    """Types a command on a policy without a model, in an empty directory with good.jsonl."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD)

    def command(words: str) -> tuple[int, str, str]:
        code = typed(words, monkeypatch)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def help_with(statement: str, command: str) -> str:
    """`opsd COMMAND --help`, 200 columns wide, in a process that first runs a Python statement."""
    code = f"{statement}\nfrom opsd_cli.cli.app import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return done.stdout
