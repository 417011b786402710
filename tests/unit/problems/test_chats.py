"""Chats as problems: the conversation is the question, its last answer the solution."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.chats import as_text
from opsd_cli.problems.files import load_file
from opsd_cli.problems.same_questions import divided
from opsd_cli.problems.sources import load_benchmark
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


LONG = [*chat("1 + 1", "It is 2."), *chat("And 1 more?", r"\boxed{3}")]


def test_chat_of_several_turns_is_a_question_with_the_last_answer_as_solution(
    tmp_path: Path,
) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": [turn("system", " Be brief. "), *LONG]}])
    (problem,) = read(tmp_path / "chat.jsonl").problems
    assert problem.turns == (
        ("system", "Be brief."), ("user", "1 + 1"), ("assistant", "It is 2."),
        ("user", "And 1 more?"),
    )  # fmt: skip
    assert problem.question == "User: 1 + 1\n\nAssistant: It is 2.\n\nUser: And 1 more?"
    assert (problem.last_turn, problem.system) == ("And 1 more?", "Be brief.")
    assert problem.earlier_turns == problem.turns[1:3]
    assert (problem.solution, problem.answer) == (r"\boxed{3}", "3")


def test_chat_of_one_turn_is_a_plain_question(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [ROWS[1]])
    write_jsonl(tmp_path / "plain.jsonl", [{"question": "2 + 1", "solution": "Count.\n#### 3"}])
    (found,), (plain,) = (read(tmp_path / f"{name}.jsonl").problems for name in ("chat", "plain"))
    assert found.turns == () and found.id == plain.id and found.last_turn == found.question


def test_chat_that_ends_with_the_user_has_no_solution(tmp_path: Path) -> None:
    rows = [{"messages": LONG[:3], "answer": "3"}, {"messages": LONG[:1], "answer": "2"}]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    found = load_file(tmp_path / "chat.jsonl", need_solution=False, need_answer=True)
    assert [(p.last_turn, p.solution, p.answer) for p in found.problems] == [
        ("And 1 more?", None, "3"), ("1 + 1", None, "2"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="2 without a solution"):
        read(tmp_path / "chat.jsonl")


def test_chat_without_the_thoughts_of_earlier_answers(tmp_path: Path) -> None:
    turns = [*chat("1 + 1", "<think>Count.</think>\n\nIt is 2."), *chat("And 1 more?", "#### 3")]
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": turns}])
    assert read(tmp_path / "chat.jsonl").problems[0].turns[1] == ("assistant", "It is 2.")


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([turn("assistant", r"\boxed{2}")], "an answer before any question (turn 1)"),
        ([turn("tool", "x"), *LONG], "a turn of the role 'tool' (turn 1)"),
        ([turn("user", "1 + 1"), CALL, *LONG], "a tool call (turn 2)"),
        (chat("1 + 1", [{"type": "image"}]), "a turn with more than text (turn 2)"),
        (["1 + 1", "2"], "a turn that is no object (turn 1)"),
        ([turn("user", " "), turn("assistant", "2")], "an empty turn (turn 1)"),
        ([turn("user", "a"), *LONG], "two user turns in a row (turn 2)"),
        ([*LONG, turn("system", "Be brief.")], "a system turn that is not the first (turn 5)"),
        ([turn("system", "Be brief.")], "no user turn"),
    ],
)
def test_chat_of_another_form_is_left_out_with_the_reason(
    tmp_path: Path, turns: Any, reason: str
) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [*ROWS, {"messages": turns}])
    found = read(tmp_path / "chat.jsonl")
    assert len(found.problems) == 2 and found.report.unusable_chats.count == 1
    assert found.report.skipped() == (
        f"1 with a chat that cannot be used (first: row 3 has {reason})"
    )


@pytest.mark.parametrize("turns", ["1 + 1", [], None])
def test_a_value_that_is_no_chat_is_no_question(tmp_path: Path, turns: Any) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [*ROWS, {"messages": turns}])
    found = read(tmp_path / "chat.jsonl")
    assert len(found.problems) == 2 and found.report.no_question == 1


def test_chat_with_damage_in_an_earlier_turn_is_left_out(tmp_path: Path) -> None:
    damaged = [turn("system", "Be\0brief."), *LONG]
    write_jsonl(tmp_path / "chat.jsonl", [*ROWS, {"messages": damaged}])
    found = read(tmp_path / "chat.jsonl")
    assert len(found.problems) == 2 and found.report.damaged.count == 1


def test_chats_are_repeated_only_if_the_whole_conversation_is(tmp_path: Path) -> None:
    other = [*chat("2 + 1", "It is 3."), *chat("And 1 more?", r"\boxed{4}")]
    brief = [turn("system", "Be brief."), *LONG]
    rows = [{"messages": turns} for turns in (LONG, other, LONG, brief, brief)]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    found = read(tmp_path / "chat.jsonl")
    assert [len(problem.turns) for problem in found.problems] == [3, 3, 4]
    assert found.report.duplicates == 2
    assert len({problem.id for problem in found.problems}) == 3


def test_chats_digest_covers_the_system_turn(tmp_path: Path) -> None:
    digests = set()
    for system in ("Be brief.", "Be kind."):
        row = {"n": "7", "messages": [turn("system", system), *LONG]}
        write_jsonl(tmp_path / "chat.jsonl", [row])
        found = load_file(
            tmp_path / "chat.jsonl", {"id": "n"}, need_solution=True, need_answer=True
        )
        digests.add(found.digest())
    assert len(digests) == 2


def test_chat_that_asks_a_held_out_question_on_the_way_is_not_trained_on() -> None:
    def problem(name: str, *turns: tuple[str, str]) -> Problem:
        return Problem(name, as_text(turns), None, "1", "made", turns=turns if turns[1:] else ())

    held_out = problem("h", ("user", "What is 1 + 1?"))
    system = problem("s", ("system", "Be brief."), ("user", "what is  1 + 1?"))
    passing = problem("p", ("user", "What is 1 + 1?"), ("assistant", "2"), ("user", "Sure?"))
    free = problem("f", ("user", "What is 1 + 2?"), ("assistant", "2"), ("user", "Sure?"))
    own, shared = divided([system, passing, free], [held_out])
    assert own == (free,) and shared == (system, passing)


def test_system_turn_of_a_chat_replaces_the_configs_and_is_noted_once(tmp_path: Path) -> None:
    data = tmp_path / "chat.jsonl"
    write_jsonl(data, [{"messages": [turn("system", "Be brief."), *LONG]}, ROWS[1]])
    load = partial(load_benchmark, str(data))
    assert load(Config()).notes == ()
    prompts = {"student": {"system": "Be kind."}, "teacher": {"system": "Be kind."}}
    assert load(Config.model_validate({"prompts": prompts})).notes == (
        "chat.jsonl: 1 of 2 have a system turn of their own, which takes the place of "
        "prompts.student.system and prompts.teacher.system",
    )


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
