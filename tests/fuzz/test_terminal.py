"""Hostile text on the terminal: all strings in two texts, and a long form."""

from __future__ import annotations

import pytest

from opsd_cli.cli.console import Output
from tests.fuzz import terminal
from tests.support import hostile_text


@pytest.mark.parametrize("colours", [False, True], ids=["plain", "colours"])
@pytest.mark.parametrize("path", terminal.PATHS)
def test_terminal_obeys_nothing_that_is_printed(path: str, colours: bool) -> None:
    for text in terminal.in_short():
        terminal.run_case(path, text, colours)


@pytest.mark.parametrize("text", terminal.in_short(), ids=["control", "bidi and markup"])
def test_terminal_prompts_and_json_are_exact(text: str) -> None:
    terminal.require_exact(text)


@pytest.mark.parametrize("text", (*hostile_text.MARKUP, *hostile_text.PLAIN[3:8]))
@pytest.mark.parametrize("colours", [False, True], ids=["plain", "colours"])
def test_terminal_markup_is_printed_as_text(
    text: str, colours: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.table import Table

    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
    out = Output()
    table = Table(f"heading {text}", title=f"title {text}", box=None)
    table.add_row(f"cell {text}")
    out.show(f"shown {text}")
    out.show(table)
    out.note(f"note {text}")
    out.warn(f"warned {text}")
    printed = capsys.readouterr()
    for said in (f"shown {text}", f"heading {text}", f"title {text}", f"cell {text}"):
        assert said in printed.out
    assert f"note {text}" in printed.err and f"warned {text}" in printed.err


@pytest.mark.long
def test_terminal_obeys_nothing_of_many_texts(capsys: pytest.CaptureFixture[str]) -> None:
    table = terminal.run_all(cases=80, seed=1)
    assert sum(found["wrong"] for found in table.values()) == 0, capsys.readouterr().out
