"""Every known mistake: one clear line, a hint, the right exit code, and nothing written or lost."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

import backends
from opsd_cli.cli.app import main
from tests.support.bad_input import CASES, Case
from tests.support.bad_input import main as print_table
from tests.support.cli import typed

DOCUMENT = Path(__file__).parents[3] / "docs" / "errors.md"


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file but locks, which hold nothing."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("case", CASES, ids=[case.command for case in CASES])
def test_bad_input_ends_in_an_error_line_and_changes_no_file(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(backends.BACKENDS, "cpu", "tests.support.fakes:FakeBackend")
    monkeypatch.setitem(backends.BACKENDS, "mlx", "mlx_that_is_not_installed:Backend")
    monkeypatch.chdir(tmp_path)
    for name, text in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = snapshot(tmp_path)
    code = typed(case.command, monkeypatch)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert code == case.code, captured.err
    assert len(said) == 1 and case.says in said[0], captured.err
    assert len(hints) <= 1 and case.hints in "".join(hints), captured.err
    assert bool(hints) or not case.hints
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert snapshot(tmp_path) == before


def test_bad_input_has_forty_cases_or_more() -> None:
    assert len({case.command for case in CASES}) >= 40


def test_errors_md_is_current() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_table()
    assert DOCUMENT.read_text() == out.getvalue(), "run the module's main and keep what it prints"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from opsd_cli.errors import ConfigError

    monkeypatch.setattr("sys.argv", ["opsd", "train", "--debug", "--set", "train.setps=3"])
    with pytest.raises(ConfigError):
        main()
