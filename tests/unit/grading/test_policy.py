"""The examples in the table of docs/evaluation.md have the documented verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from opsd_cli.grading.mathematics import MathGrader

DOCUMENT = Path(__file__).parents[3] / "docs" / "evaluation.md"


def examples() -> Iterator[tuple[str, str, bool]]:
    """(gold, completion, whether the table says it is right)."""
    table = DOCUMENT.read_text(encoding="utf-8").partition("| question | rule |")[2]
    for row in table.partition("\n\n")[0].splitlines()[2:]:
        _, _, _, right, wrong, _ = re.split(r"(?<!\\)\|", row)
        for cell, correct in ((right, True), (wrong, False)):
            for example in cell.split("<br>"):
                gold, completion = re.fullmatch(r"\s*`(.+?)` ← `(.+)`\s*", example).groups()
                yield gold, completion.replace(" ↵ ", "\n"), correct


def test_the_grader_agrees_with_the_documented_examples() -> None:
    said = list(examples())
    assert len(said) > 50
    with MathGrader(120.0, workers=1) as grader:
        grades = grader.grade_many([(gold, completion) for gold, completion, _ in said])
    differing = [case for case, grade in zip(said, grades, strict=True) if grade.correct != case[2]]
    assert differing == []
