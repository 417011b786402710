"""Graders of answers that are no mathematics: judged cases of choice, exact, number and json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.grading_section import Grading
from opsd_cli.config.resolve import resolve
from opsd_cli.grading import Grade, GradedProblem, Item, open_grader
from opsd_cli.grading.clusters import clusters
from opsd_cli.grading.json_answers import first_difference
from opsd_cli.problems.sources import load_benchmark
from tests.support.cli import Opsd

COLOURS = ["red", "green", "blue"]
#: (grader, settings, gold, options, completion, status)
JUDGED: list[tuple[str, dict[str, Any], str, Any, str, str]] = [
    ("exact", {}, "Paris", None, "Paris", "correct"),
    ("exact", {}, "Paris", None, "It is a city.\nParis.", "correct"),
    ("exact", {}, "Paris", None, "It is Paris", "wrong"),
    ("exact", {}, "Paris", None, "paris", "wrong"),
    ("exact", {"ignore_case": True}, "Paris", None, "PARIS", "correct"),
    ("exact", {}, "New York", None, "Answer: **New   York**", "correct"),
    ("exact", {}, "a\nb", None, "a\n  b\n", "correct"),
    ("exact", {}, "b", None, "<think>b</think>a", "wrong"),
    ("exact", {}, "b", None, r"\boxed{\text{b}}", "correct"),
    ("exact", {}, "b", None, r"b \boxed{", "wrong"),
    ("exact", {}, " ", None, "b", "unparsable_gold"),
    ("exact", {}, "b", None, " \n", "no_answer"),
    ("number", {}, "1,234.5", None, "about 1234.50 in all", "correct"),
    ("number", {}, "3", None, "3 apples and 4 pears", "wrong"),
    ("number", {}, "3", None, r"\boxed{3}, not 4", "correct"),
    ("number", {}, "-5", None, "it falls by \u22125", "correct"),
    ("number", {}, "5", None, "10-5", "correct"),
    ("number", {}, "$18", None, "so $18.00.", "correct"),
    ("number", {}, "1/4", None, "0.25", "correct"),
    ("number", {}, "2e3", None, "2000", "correct"),
    ("number", {"tolerance": 0.01}, "3.14159", None, "3.14", "correct"),
    ("number", {}, "3.14159", None, "3.14", "wrong"),
    ("number", {}, "0", None, "0.0000001", "correct"),
    ("number", {}, "0", None, "0.1", "wrong"),
    ("number", {}, "7", None, "<think>7</think>none", "no_answer"),
    ("number", {}, "seven", None, "7", "unparsable_gold"),
    ("number", {}, "7", None, "7/0", "wrong"),
    ("choice", {}, "B", None, "B", "correct"),
    ("choice", {}, "B", None, "b", "correct"),
    ("choice", {}, "(B)", None, "The answer is B.", "correct"),
    ("choice", {}, "B", None, r"\boxed{\text{B}}", "correct"),
    ("choice", {}, "B", None, "**B) green**", "correct"),
    ("choice", {}, "B", None, "A is wrong, so I choose (B), since it is green", "correct"),
    ("choice", {}, "B", None, "the correct option is **(C)** here", "wrong"),
    ("choice", {}, "B", None, "I have no idea", "no_answer"),
    ("choice", {}, "I", None, "The answer is I think unclear", "no_answer"),
    ("choice", {}, "B", COLOURS, "green", "correct"),
    ("choice", {}, "B", COLOURS, "Answer: Blue", "wrong"),
    ("choice", {}, "green", COLOURS, "Answer: B", "correct"),
    ("choice", {}, "green", COLOURS, "Answer: A", "wrong"),
    ("choice", {}, "2", {"1": "red", "2": "green"}, "green", "correct"),
    ("choice", {}, "B", {"label": ["A", "B"], "text": ["red", "green"]}, "Green.", "correct"),
    ("choice", {}, "B", ["A) red", "B) green"], "green", "correct"),
    ("choice", {}, "green", None, "Green.", "correct"),
    ("choice", {}, "green", None, "red", "wrong"),
    ("choice", {}, "", None, "B", "unparsable_gold"),
    ("json", {}, '{"a": 1, "b": [1, 2]}', None, '{"b": [1.0, 2], "a": 1}', "correct"),
    ("json", {}, '{"a": 1}', None, 'So:\n```json\n{"a": 1}\n```\nDone.', "correct"),
    ("json", {}, '{"a": 1}', None, 'First {"a": 2}, then {"a": 1}.', "correct"),
    ("json", {}, '{"a": 1}', None, 'First {"a": 1}, then {"a": 2}.', "wrong"),
    ("json", {}, '{"a": true}', None, '{"a": 1}', "wrong"),
    ("json", {}, '{"a": 1}', None, "{'a': 1}", "no_answer"),
    ("json", {}, '{"a": 1}', None, '{"a": NaN}', "no_answer"),
    ("json", {}, "[]", None, "{x [] y", "correct"),
    ("json", {}, "{", None, "{}", "unparsable_gold"),
    ("json", {}, "[1]", None, "[" * 50_000, "no_answer"),
    ("json", {}, "1" + "0" * 400, None, "2" + "0" * 400, "wrong"),
    ("json", {}, '"a"', None, r'"\ud800"', "wrong"),
]


def judged(
    grader: str, settings: dict[str, Any], gold: str, options: Any, completion: str
) -> Grade:
    chosen = {**settings, "choices": "options"} if options is not None else settings
    problem = GradedProblem("1", "?", gold, fields={"options": options})
    with open_grader(Grading(grader=grader, **chosen)) as made:
        [grade] = made.grade([Item(problem, completion)])
    return grade


@pytest.mark.parametrize(("grader", "settings", "gold", "options", "completion", "status"), JUDGED)
def test_judged_answers(
    grader: str, settings: dict[str, Any], gold: str, options: Any, completion: str, status: str
) -> None:
    grade = judged(grader, settings, gold, options, completion)
    assert grade.status == status
    assert (grade.answer is None) == (status in ("no_answer", "unparsable_gold"))
    assert not grade.numeric
    json.dumps([grade.answer, grade.feedback], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("gold", "found", "said"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "$.a[1].b: 3, where 2 is expected"),
        ({"a": 1, "b": 2}, {"a": 1}, "$: the key 'b' is missing"),
        ({"a": 1}, {"a": 1, "b": 2}, "$: the key 'b' is not expected"),
        ([1, 2], [1], "$: 1 items, where 2 are expected"),
        ({"a": 1}, [1], '$: [1], where {"a": 1} is expected'),
        ({"a": "1"}, {"a": 1}, '$.a: 1, where "1" is expected'),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, ""),
    ],
)
def test_the_feedback_of_json_names_the_first_place_that_differs(
    gold: Any, found: Any, said: str
) -> None:
    assert first_difference(gold, found) == said
    grade = judged("json", {}, json.dumps(gold), None, json.dumps(found))
    assert grade.feedback == (said or None) and grade.correct == (not said)


@pytest.mark.parametrize("grader", ["choice", "exact", "number", "json"])
@pytest.mark.parametrize(
    "text",
    ["[1," * 100_000, "(" * 200_000, "answer" + " *" * 100_000, "1," * 100_000, "`" * 200_000],
)
def test_grading_of_hostile_texts_is_linear(grader: str, text: str) -> None:
    """Quadratic time would take these minutes; the limit is the suite's for one test."""
    assert judged(grader, {}, "7", None, text).status in ("wrong", "no_answer")


def test_votes_of_equal_numbers_are_one_answer() -> None:
    with open_grader(Grading(grader="number")) as grader:
        assert clusters([["0.5", "1/2", "7", None]], grader) == [[0, 0, 1, None]]


def test_json_answers_may_be_objects_in_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"question": "one", "answer": {"a": 1, "b": 0.50}},
        {"question": "two", "answer": ["x"]},
        {"question": "three", "answer": '{"c": "#### 3"}'},
        {"question": "four", "answer": None, "solution": r"\boxed{4}"},
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    found = load_benchmark("set.jsonl", resolve(assignments=["grading.grader=json"]))
    answers = [problem.answer for problem in found.problems]
    assert [json.loads(a or "") for a in answers] == [{"a": 1, "b": 0.5}, ["x"], {"c": "#### 3"}]
    assert found.report.no_answer == 1 and not found.report.unmatchable.count
    assert not found.notes


def test_choices_are_read_from_their_column(opsd: Opsd, tmp_path: Path) -> None:
    rows = [
        {"question": f"{n}?", "options": COLOURS, "answer": "B", "solution": r"so \boxed{C}"}
        for n in range(3)
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = "eval --benchmark set.jsonl --out e --json --set grading.grader=choice"
    code, out, err = opsd(f"{command} --set grading.choices=options --samples 2")
    assert code == 0, err
    assert "warning" not in err and "matched" not in err
    found = json.loads(out)["benchmarks"]["set.jsonl"]
    assert found["majority"] is not None and found["flexible_accuracy"] is None
    code, _, err = opsd(f"{command} --set grading.choices=nosuch --out f")
    assert code == 2 and "no column 'nosuch'" in err
