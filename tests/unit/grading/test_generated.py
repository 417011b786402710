"""Generated answers, correct or wrong by construction."""

from __future__ import annotations

import pytest

from opsd_cli.grading.mathematics import MathGrader
from tests.support.generated_answers import cases


@pytest.mark.parametrize("seed", [0, 1])
def test_generated_answers_get_the_verdict_they_were_made_for(seed: int) -> None:
    made = list(cases(seed, rounds=2))
    assert len(made) > 300
    with MathGrader(120.0, workers=1) as grader:
        grades = grader.grade_many([(gold, prediction) for _, gold, prediction, _ in made])
    mistaken = [case for case, grade in zip(made, grades, strict=True) if grade.correct != case[3]]
    assert [case for case in mistaken if not case[3]] == []
    assert mistaken == []
