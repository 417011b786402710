"""Chats as problems: the user's turn is the question, the answer the solution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import DataError
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.files import load_file
from tests.support.problem_files import write_jsonl, write_parquet


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(question: str, answer: Any, *before: dict[str, Any]) -> list[dict[str, Any]]:
    return [*before, turn("user", question), turn("assistant", answer)]


def read(path: Path) -> ProblemSet:
    return load_file(path, need_solution=True, need_answer=True)


ROWS = [
    {"messages": chat("1 + 1", r"It is \boxed{2}.", turn("system", "Be brief."))},
    {"messages": chat("2 + 1", "Count.\n#### 3")},
]


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_chat_columns_are_read(tmp_path: Path, write: Any) -> None:
    suffix = "jsonl" if write is write_jsonl else "parquet"
    write(tmp_path / f"chat.{suffix}", ROWS)
    first, second = read(tmp_path / f"chat.{suffix}").problems
    assert (first.question, first.solution, first.answer) == ("1 + 1", r"It is \boxed{2}.", "2")
    assert (second.question, second.answer) == ("2 + 1", "3")


def test_chat_in_the_sharegpt_format_is_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "1 + 1"}, {"from": "gpt", "value": r"\boxed{2}"}]
    write_jsonl(tmp_path / "chat.jsonl", [{"conversations": turns}])
    (problem,) = read(tmp_path / "chat.jsonl").problems
    assert (problem.question, problem.answer) == ("1 + 1", "2")


def test_chat_of_text_parts_is_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "So "}, {"type": "text", "text": r"\boxed{2}"}]
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat("1 + 1", parts)}])
    assert read(tmp_path / "chat.jsonl").problems[0].solution == r"So \boxed{2}"


@pytest.mark.parametrize(
    "turns",
    [
        [*chat("1 + 1", r"\boxed{2}"), *chat("And 1 more?", r"\boxed{3}")],
        [turn("user", "1 + 1")],
        [turn("assistant", r"\boxed{2}")],
        [turn("tool", "x"), *chat("1 + 1", r"\boxed{2}")],
        chat("1 + 1", [{"type": "image"}]),
        ["1 + 1", "2"],
        "1 + 1",
    ],
)
def test_chat_of_more_or_less_than_a_question_is_left_out(tmp_path: Path, turns: Any) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [*ROWS, {"messages": turns}])
    found = read(tmp_path / "chat.jsonl")
    assert len(found.problems) == 2 and found.report.no_question == 1


def test_chat_columns_of_another_name_have_precedence(tmp_path: Path) -> None:
    rows = [{"question": "5 + 5", "answer": "10", **row} for row in ROWS[:1]]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    (problem,) = read(tmp_path / "chat.jsonl").problems
    assert (problem.question, problem.answer) == ("5 + 5", "10")
    assert problem.solution == r"It is \boxed{2}."


def test_chat_turns_can_be_mapped(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [{"gold": "7", **row} for row in ROWS])
    columns = {"question": "messages.user", "solution": "messages.assistant", "answer": "gold"}
    found = load_file(tmp_path / "chat.jsonl", columns, need_solution=True, need_answer=True)
    assert [problem.answer for problem in found.problems] == ["7", "7"]


def test_chat_without_an_answer_says_where_one_is_looked_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat("1 + 1", "two")}])
    with pytest.raises(DataError, match="1 without an answer") as caught:
        read(tmp_path / "chat.jsonl")
    assert r"\boxed{ANSWER}" in caught.value.hint and "messages.assistant" in caught.value.hint
