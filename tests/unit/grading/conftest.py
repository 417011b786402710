"""Commands with a fake backend, for tests of the graders that they use."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import backends
from opsd_cli.cli.app import main
from tests.support.bad_input import GOOD
from tests.support.grading_commands import Opsd


@pytest.fixture
def opsd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Opsd:
    """Runs a command beside good.jsonl with a fake backend: exit code, stdout and stderr."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD)

    def typed(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["opsd", *shlex.split(command)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return typed
