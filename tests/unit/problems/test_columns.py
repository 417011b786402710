"""The column mapping, recognised column names, and answers derived from solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import DataError
from tests.support.problem_files import ROWS, WRITERS, answers, load, write_jsonl

every_format = pytest.mark.parametrize("suffix", WRITERS)


@pytest.mark.parametrize("name", ["problem", "Question", "PROBLEM"])
def test_recognised_column_names(name: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{name: "q", "Answer": 1, "Solution": "s"}])
    problem = load(tmp_path / "a.jsonl").problems[0]
    assert (problem.question, problem.solution, problem.answer) == ("q", "s", "1")


@every_format
def test_mapped_columns(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"n": "a1", "question": "wrong", "prompt": "q", "trace": "t", "final": "7", "answer": "0"}
    ]
    WRITERS[suffix](tmp_path / f"a.{suffix}", rows)
    columns = {"id": "n", "question": "prompt", "solution": "trace", "answer": "final"}
    problem = load(tmp_path / f"a.{suffix}", columns).problems[0]
    assert (problem.id, problem.question, problem.solution, problem.answer) == ("a1", "q", "t", "7")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_dotted_column_name_reads_a_nested_field(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"question": "a", "reward": {"style": "rule", "truth": {"value": 7}}},
        {"question": "b", "reward": None},
    ]
    WRITERS[suffix](tmp_path / f"a.{suffix}", rows)
    loaded = load(tmp_path / f"a.{suffix}", {"answer": "reward.truth.value"})
    assert answers(loaded) == ["7", None]


@every_format
def test_a_column_whose_name_holds_a_dot(suffix: str, tmp_path: Path) -> None:
    WRITERS[suffix](tmp_path / f"a.{suffix}", [{"question": "a", "x.y": "7"}])
    assert answers(load(tmp_path / f"a.{suffix}", {"answer": "x.y"})) == ["7"]


@every_format
def test_a_mapped_column_that_does_not_exist(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    WRITERS[suffix](path, ROWS)
    with pytest.raises(DataError) as caught:
        load(path, {"solution": "Solutions"}, need_solution=True)
    assert caught.value.message == (
        f"{path.name} has no column 'Solutions' for the solution; "
        "it has 'question', 'solution', 'answer'"
    )
    assert caught.value.hint.startswith("did you mean 'solution'?")


def test_an_unknown_role(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(DataError, match="'anwser'") as caught:
        load(tmp_path / "a.jsonl", {"anwser": "answer"})
    assert "did you mean 'answer'?" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "needs", "role"),
    [
        ({"prompt": "q"}, {}, "question"),
        ({"question": "q", "answer": 1}, {"need_solution": True}, "solution"),
        ({"question": "q"}, {"need_answer": True}, "answer"),
    ],
)
def test_no_column_for_a_needed_role(
    row: dict[str, Any], needs: dict[str, bool], role: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=f"no column for the {role}; it has ") as caught:
        load(tmp_path / "a.jsonl", **needs)
    assert f"data.columns.{role}=" in caught.value.hint


def test_a_column_that_only_later_rows_have(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "a"}, {"question": "b", "answer": 2}])
    assert answers(load(tmp_path / "a.jsonl", {"answer": "answer"})) == [None, "2"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"solution": "first \\boxed{1}, then \\boxed{\\frac{1}{2}}."}, "\\frac{1}{2}"),
        ({"solution": "2+3 = <<2+3=5>>5 apples\n#### 1,005"}, "1,005"),
        ({"solution": "so \\boxed{5}", "answer": "6"}, "6"),
        ({"solution": "so \\boxed{5}", "answer": ""}, "5"),
        ({"answer": "2+3=5\n#### 5"}, "5"),
        ({"solution": "so \\boxed{6}", "answer": "$\\boxed{5}$"}, "5"),
        ({"solution": "no mark"}, None),
        ({"solution": "an empty \\boxed{ }"}, None),
        ({"solution": "cut off at \\boxed{12"}, None),
    ],
)
def test_answers_derived_from_the_end_of_a_solution(
    row: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", **row}])
    loaded = load(tmp_path / "a.jsonl")
    assert answers(loaded) == [expected]
    derived = expected is not None and expected != row.get("answer")
    assert loaded.report.derived_answers == derived


def test_the_answer_column_of_gsm8k_is_both_solution_and_answer(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "9+9=18\n#### 18"}])
    with pytest.raises(DataError, match="no column for the solution"):
        load(tmp_path / "a.jsonl", need_solution=True, need_answer=True)
    loaded = load(
        tmp_path / "a.jsonl", {"solution": "answer"}, need_solution=True, need_answer=True
    )
    assert loaded.problems[0].solution == "9+9=18\n#### 18"
    assert answers(loaded) == ["18"]


def test_a_column_mapped_to_the_solution_is_not_the_answer_as_well(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a proof"}])
    loaded = load(tmp_path / "a.jsonl", {"solution": "answer"}, need_solution=True)
    assert (loaded.problems[0].solution, loaded.problems[0].answer) == ("a proof", None)


def test_a_mapped_solution_may_be_absent_where_none_is_needed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": 7}])
    assert answers(load(tmp_path / "a.jsonl", {"solution": "trace"}, need_answer=True)) == ["7"]
    with pytest.raises(DataError, match="no column 'trace' for the solution"):
        load(tmp_path / "a.jsonl", {"solution": "trace"}, need_solution=True)
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q"}])
    with pytest.raises(DataError, match="no column for the answer"):
        load(tmp_path / "a.jsonl", {"solution": "trace"}, need_answer=True)
