"""`opsd data check` with a grader of choices: gold answers that no completion can match."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Opsd

CHOICES = "--set grading.grader=choice --set grading.choices=options"


@pytest.mark.parametrize(
    ("answers", "faulty"),
    [(("A", "blue", "F"), "row 3: 'F'"), (("Blue.", "(A) red", "green"), "row 3: 'green'")],
    ids=["letter beyond the options", "text that is no option"],
)
def test_data_check_lists_gold_choices_that_are_no_option(
    opsd: Opsd, tmp_path: Path, answers: tuple[str, ...], faulty: str
) -> None:
    rows = [
        {"question": f"Question {answer}?", "options": ["red", "blue"], "answer": answer}
        for answer in answers
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = opsd(f"data check own.jsonl {CHOICES} --json")
    assert code == 0, err
    (found,) = json.loads(out)["findings"]
    assert found["kind"] == "not_accepted" and found["rows"] == [faulty]


def test_data_check_uses_rows_without_a_solution_that_the_teacher_does_not_read(
    opsd: Opsd, tmp_path: Path
) -> None:
    rows = [
        {"question": f"What is {n}?", "answer": str(n)} | ({"solution": f"It is {n}."} if n else {})
        for n in range(3)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = opsd("data check own.jsonl --set teacher.reference=answer --json")
    assert code == 0 and json.loads(out)["used"] == 3
    code, out, _ = opsd("data check own.jsonl --json")
    assert code == 0 and json.loads(out)["used"] == 2
