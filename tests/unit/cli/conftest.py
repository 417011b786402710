"""The `opsd` command on a policy without a model, in an empty directory with good.jsonl."""

from __future__ import annotations

from pathlib import Path

import pytest

import backends
from tests.support.bad_input import GOOD
from tests.support.cli import Opsd, typed


@pytest.fixture
def opsd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Opsd:
    """Type a command; gives its exit code, standard output and standard error."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD)

    def command(words: str) -> tuple[int, str, str]:
        code = typed(words, monkeypatch)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
