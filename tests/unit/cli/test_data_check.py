"""`opsd data check`: faulty answers of a set, listed with their rows; train and init name it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import QUICK, Opsd


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """The file faulty.jsonl: 40 sums, some of whose rows have a fault each."""
    rows: list[dict[str, Any]] = [
        {
            "question": f"{n} + 1",
            "solution": f"{n} + 1 = {n + 1}. The answer is {n + 1}.",
            "answer": str(n + 1),
        }
        for n in range(40)
    ]
    rows[3]["answer"] = "15"
    rows[5]["answer"] = "\\boxed{"
    rows[6] |= {"answer": "approx. 12", "solution": "about 12"}
    rows[7]["question"] = ""
    rows[9] |= {"answer": "3", "solution": "so \\boxed{\\sqrt{4}}"}
    rows[11]["answer"] = "12 apples"
    path = tmp_path / "faulty.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


FOUND = {
    "unmatchable": ["row 6: '\\\\boxed{'"],
    "contradicting": ["row 4 has '15', its solution '4'"],
    "graded_wrong": ["row 10 has '3', its solution '\\\\sqrt{4}'"],
    "unparsable": ["row 7: 'approx. 12'"],
}


def test_data_check_lists_rows(opsd: Opsd, faulty: Path) -> None:
    code, out, err = opsd("data check faulty.jsonl")
    assert code == 0, err
    assert "used 39 of 40 rows: 1 without a question" in out
    assert "1 answer of another value than the solution states:" in out
    assert "1 solution graded wrong against its own answer:" in out
    lines = [line.strip() for line in out.splitlines() if line.startswith("  ")]
    assert lines == [row for rows in FOUND.values() for row in rows]


def test_data_check_as_json(opsd: Opsd, faulty: Path) -> None:
    found = json.loads(opsd("data check faulty.jsonl --json")[1])
    assert (found["rows"], found["used"], found["left_out"]) == (40, 39, "1 without a question")
    assert {each["kind"]: each["rows"] for each in found["findings"]} == FOUND
    assert all(each["count"] == len(each["rows"]) for each in found["findings"])


def test_data_check_counts_more_rows_than_it_lists(opsd: Opsd, tmp_path: Path) -> None:
    rows = (
        json.dumps({"question": str(n), "solution": "\\boxed{2}", "answer": "1"}) for n in range(14)
    )
    (tmp_path / "wrong.jsonl").write_text("\n".join(rows))
    code, out, _ = opsd("data check wrong.jsonl")
    assert code == 0
    assert "14 answers of another value than the solution states:" in out
    assert "  row 10 has '1', its solution '2'\n  and 4 more" in out


def test_data_check_of_good_problems(opsd: Opsd) -> None:
    code, out, _ = opsd("data check good.jsonl")
    assert code == 0 and "no answer contradicts its solution" in out
    assert "row 1" not in out


def test_data_check_reads_columns_by_the_config(opsd: Opsd, tmp_path: Path) -> None:
    row = {"ask": "1 + 1", "solution": "\\boxed{2}", "answer": "3"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    assert opsd("data check own.jsonl")[0] == 2
    code, out, _ = opsd("data check own.jsonl --set data.columns.question=ask")
    assert code == 0 and "row 1 has '3', its solution '2'" in out


def write_rows(path: Path, *rows: dict[str, str]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_data_check_lists_rows_that_are_left_out(opsd: Opsd, tmp_path: Path) -> None:
    good = [{"question": f"{n} + 1", "solution": "s", "answer": str(n + 1)} for n in range(4)]
    empty = {"question": "", "solution": "s", "answer": "1"}
    unsolved = {"question": "2 + 2", "solution": "", "answer": "4"}
    damaged = {"question": "a\0b", "solution": "s", "answer": "4"}
    rows = [good[0], *[empty] * 12, unsolved, good[0], damaged, good[1]]
    write_rows(tmp_path / "gaps.jsonl", *rows)
    code, out, err = opsd("data check gaps.jsonl")
    assert code == 0, err
    numbers = ", ".join(f"row {n}" for n in range(2, 12))
    assert f"left out, 12 rows without a question: {numbers} and 2 more" in out
    assert "left out, 1 row without a solution: row 14\n" in out
    assert "left out, 1 row with a question seen before: row 15\n" in out
    assert "left out, 1 row with damaged text: row 16 has" in out
    found = json.loads(opsd("data check gaps.jsonl --json")[1])["left_out_rows"]
    assert {each["kind"]: each["count"] for each in found} == {
        "no_question": 12, "no_solution": 1, "duplicates": 1, "damaged": 1,
    }  # fmt: skip
    assert next(e for e in found if e["kind"] == "no_solution")["rows"] == ["row 14"]


def test_data_check_of_a_set_without_solutions(opsd: Opsd, tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(40)]
    write_rows(tmp_path / "unsolved.jsonl", *rows)
    code, out, err = opsd("data check unsolved.jsonl")
    assert code == 0, err
    assert "no row of unsolved.jsonl has a solution" in out
    assert "teacher.reference=answer, or sibling" in out and "--method grpo" in out
    assert "contradicts its solution" not in out
    (note,) = json.loads(opsd("data check unsolved.jsonl --json")[1])["notes"]
    assert note.startswith("no row of unsolved.jsonl has a solution")


@pytest.mark.parametrize("setting", ["teacher.reference=answer", "method=grpo"])
def test_data_check_of_a_set_that_needs_no_solutions(
    opsd: Opsd, tmp_path: Path, setting: str
) -> None:
    rows = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(4)]
    write_rows(tmp_path / "unsolved.jsonl", *rows)
    found = json.loads(opsd(f"data check unsolved.jsonl --set {setting} --json")[1])
    assert found["notes"] == [] and found["used"] == 4


@pytest.mark.parametrize(
    "command", ["data check good.jsonl", "init --data good.jsonl --model embedded"]
)
def test_data_commands_refuse_a_grader_that_cannot_be_used(
    opsd: Opsd, tmp_path: Path, command: str
) -> None:
    (tmp_path / "rules.py").write_text("def score(problem, completion):\n    return True\n")
    code, _, err = opsd(f"{command} --set grading.grader=rules.py:nope")
    assert code == 2
    assert "rules.py has no function 'nope'" in err and "its functions are score" in err


def test_train_warns_once_of_faulty_rows_with_the_command_that_lists_them(
    opsd: Opsd, faulty: Path
) -> None:
    code, _, err = opsd(f"train --out run --set data.train=faulty.jsonl {QUICK}")
    assert code == 0, err
    (warning,) = (line for line in err.splitlines() if "faulty.jsonl: 1 answer" in line)
    assert warning.startswith("warning: ")
    assert "no completion can match (first: row 6" in warning
    assert "than the solution states (first: row 4" in warning
    assert warning.endswith("To list such rows: opsd data check faulty.jsonl")


def test_init_warns_of_solutions_that_the_grader_finds_wrong(opsd: Opsd, faulty: Path) -> None:
    found = json.loads(opsd("init --model embedded --data faulty.jsonl --json")[1])
    wanted = (
        "graded wrong against its own answer (first: row 10",
        "the grader cannot parse",
        "than the solution states (first: row 4",
    )
    for text in wanted:
        assert sum(text in warning for warning in found["warnings"]) == 1, text
    assert all("opsd data check faulty.jsonl" in warning for warning in found["warnings"])


def test_data_check_says_where_no_answer_is_checked(opsd: Opsd) -> None:
    out = opsd("data check good.jsonl --set grading.grader=none")[1]
    assert "can parse every answer" not in out
    assert "nothing was checked" in out
    out = opsd("data check good.jsonl --set grading.grader=exact")[1]
    assert "accepts every answer as a completion" in out
