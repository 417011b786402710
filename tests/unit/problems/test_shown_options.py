"""Options of multiple choice in the questions that both roles' prompts hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.grading import Item, open_grader
from opsd_cli.problems import Problem
from opsd_cli.problems.sources import load_one_set, load_splits
from opsd_cli.prompts.builder import PromptBuilder
from tests.support.fakes import FakePolicy

CHOICE = ["grading.grader=choice", "grading.choices=options"]
LINES = "A) 23\nB) 25\nC) 28"


def loaded(tmp_path: Path, *rows: dict[str, Any], settings: list[str] = CHOICE) -> Any:
    """The problems of rows, as read with a config."""
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_one_set(str(path), resolve(None, settings)).problems


def row(**more: Any) -> dict[str, Any]:
    return {
        "question": "How many pens are 14 and 11?", "solution": "14 + 11 = 25.", "answer": "B",
        "options": ["23", "25", "28"],
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["23", "25", "28"], LINES),
        (["A) 23", "B) 25", "C) 28"], LINES),
        ({"a": "23", "b": "25", "c": "28"}, LINES),
        ({"label": ["A", "B", "C"], "text": ["23", "25", "28"]}, LINES),
        (["14", "25"], "A) 14\nB) 25"),
        (["1", "11", "14"], "A) 1\nB) 11\nC) 14"),
    ],
)
def test_options_are_added_to_the_question(tmp_path: Path, options: Any, lines: str) -> None:
    (problem,) = loaded(tmp_path, row(options=options))
    assert problem.question == f"How many pens are 14 and 11?\n{lines}"


@pytest.mark.parametrize(
    "more",
    [
        {"question": "Which is it? (a) 23 (b) 25 (c) 28"},
        {"question": "Red, GREEN or  blue?", "options": ["red", "green", "blue"]},
        {"options": None},
        {"options": []},
    ],
)
def test_options_that_a_question_has_are_not_added(tmp_path: Path, more: dict[str, Any]) -> None:
    (problem,) = loaded(tmp_path, row(**more))
    assert problem.question == row(**more)["question"]


@pytest.mark.parametrize("settings", [[], ["grading.choices=options"], CHOICE[:1]])
def test_options_are_not_added_where_the_grader_reads_none(
    tmp_path: Path, settings: list[str]
) -> None:
    (problem,) = loaded(tmp_path, row(), settings=settings)
    assert problem.question == row()["question"]


def test_options_change_no_id(tmp_path: Path) -> None:
    shown, plain = loaded(tmp_path, row()), loaded(tmp_path, row(), settings=CHOICE[:1])
    assert [each.id for each in shown] == [each.id for each in plain]


def test_options_follow_the_last_turn_of_a_chat(tmp_path: Path) -> None:
    turns = [("user", "Add."), ("assistant", "What?"), ("user", "14 and 11.")]
    chat = [{"role": role, "content": text} for role, text in turns]
    messages = [*chat, {"role": "assistant", "content": "It is B."}]
    (problem,) = loaded(
        tmp_path, {"messages": messages, "answer": "B", "options": ["23", "25", "28"]}
    )
    assert problem.last_turn == f"14 and 11.\n{LINES}"
    assert problem.question.endswith(LINES) and problem.turns[:2] == tuple(turns[:2])


def test_options_are_in_both_prompts_and_every_split(tmp_path: Path) -> None:
    rows = [row(question=f"How many pens are 14 and 11, day {n}?") for n in range(30)]
    loaded(tmp_path, *rows)
    sizes = ["data.validation_problems=4", "data.test_problems=4"]
    config = resolve(None, [*CHOICE, *sizes, f"data.train={tmp_path / 'quiz.jsonl'}"])
    splits = load_splits(config)
    tokenizer = FakePolicy().tokenizer
    builder = PromptBuilder(config, tokenizer)
    for split in (splits.train, splits.validation, splits.test):
        for problem in split.problems:
            assert LINES in builder.student(problem).text
            assert LINES in builder.teacher(problem).text


def test_options_that_were_added_are_graded_by_letter_and_text(tmp_path: Path) -> None:
    problem: Problem
    (problem,) = loaded(tmp_path, row())
    with open_grader(resolve(None, CHOICE).grading) as grader:
        items = [Item(problem, text) for text in ("\\boxed{B}", "\\boxed{25}", "\\boxed{C}")]
        assert [grade.correct for grade in grader.grade(items)] == [True, True, False]
