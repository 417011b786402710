"""Hostile text on the terminal: every string along every way in two texts, or a long form."""

from __future__ import annotations

import pytest

from tests.fuzz import terminal


@pytest.mark.parametrize("colours", [False, True], ids=["plain", "colours"])
@pytest.mark.parametrize("path", terminal.PATHS)
def test_nothing_printed_is_obeyed(path: str, colours: bool) -> None:
    for text in terminal.in_short():
        terminal.run_case(path, text, colours)


@pytest.mark.parametrize("text", terminal.in_short(), ids=["control", "bidi and markup"])
def test_prompts_and_json_are_exact(text: str) -> None:
    terminal.require_exact(text)


@pytest.mark.long
def test_nothing_printed_is_obeyed_in_long(capsys: pytest.CaptureFixture[str]) -> None:
    table = terminal.run_all(cases=80, seed=1)
    assert sum(found["wrong"] for found in table.values()) == 0, capsys.readouterr().out
