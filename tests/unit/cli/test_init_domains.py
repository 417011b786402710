"""`opsd init` on data of other domains: the grader and the reference that the rows ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Opsd


def init(opsd: Opsd, rows: list[dict[str, Any]], flags: str = "") -> dict[str, Any]:
    """The JSON object of `opsd init` on a file with these rows."""
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = opsd(f"init mine.yaml --model embedded --data own.jsonl {flags} --json")
    assert code == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


def colours(key: str, options: Any, answer: str, solved: int = 40) -> list[dict[str, Any]]:
    """Forty rows, of which the first `solved` have a solution."""
    return [
        {"question": f"Colour {n}?", key: options, "answer": answer}
        | ({"solution": f"It is {n}."} if n < solved else {})
        for n in range(40)
    ]


OPTIONS: list[tuple[str, Any, str]] = [
    ("options", ["red", "blue"], "B"),
    ("options", ["red", "blue"], "blue"),
    ("options", [3, 4], "4"),
    ("letters", {"A": "red", "B": "blue"}, "(B) blue"),
    ("choices", {"label": ["A", "B"], "text": ["red", "blue"]}, "b"),
]


@pytest.mark.parametrize(("key", "options", "answer"), OPTIONS)
def test_init_proposes_the_choice_grader(opsd: Opsd, key: str, options: Any, answer: str) -> None:
    found = init(opsd, colours(key, options, answer))
    grading = found["config"]["grading"]
    assert (grading["grader"], grading["choices"]) == ("choice", key)
    assert any("grading.grader is choice" in note for note in found["notes"])
    assert found["config"]["teacher"]["reference"] == "solution"
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("options", "answer"), [(["red", "blue"], "12"), ([12, 13], "12"), ("red, blue", "12")]
)
def test_init_proposes_no_choice_grader_for_lists_without_the_answer(
    opsd: Opsd, options: Any, answer: str
) -> None:
    grading = init(opsd, colours("tags", options, answer))["config"]["grading"]
    assert (grading["grader"], grading["choices"]) == ("math", None)


def test_init_keeps_a_grader_that_is_given(opsd: Opsd) -> None:
    rows = colours("options", ["red", "blue"], "blue")
    grading = init(opsd, rows, "--set grading.grader=exact")["config"]["grading"]
    assert (grading["grader"], grading["choices"]) == ("exact", None)


@pytest.mark.parametrize(
    ("solved", "reference"), [(40, "solution"), (36, "solution"), (20, "answer"), (0, "answer")]
)
def test_init_proposes_the_answer_as_reference_where_solutions_lack(
    opsd: Opsd, solved: int, reference: str
) -> None:
    found = init(opsd, colours("options", ["red", "blue"], "B", solved))
    assert found["config"]["teacher"]["reference"] == reference
    used = 40 if reference == "answer" else solved
    assert sum(found["problems"].values()) == used
    told = [note for note in found["notes"] if "teacher.reference is answer" in note]
    assert len(told) == (reference == "answer")
    if told:
        assert f"{40 - solved} of 40 rows with an answer have no solution" in told[0]


def test_init_keeps_a_reference_that_is_given(opsd: Opsd) -> None:
    rows = colours("options", ["red", "blue"], "B", 20)
    teacher = init(opsd, rows, "--set teacher.reference=solution")["config"]["teacher"]
    assert teacher["reference"] == "solution"
