"""Completions that state two different answers."""

from __future__ import annotations

import pytest

from opsd_cli.evaluation.other_answers import other_answer
from opsd_cli.grading.extract import completion_answer


@pytest.mark.parametrize(
    ("completion", "other"),
    [
        ("So \\boxed{5}.\nThe answer is 7.", "7"),
        ("So \\boxed{A}.\nThe answer is (B).", "(B)"),
        ("So \\boxed{5}.\nThe answer is 5.0.", None),
        ("So \\boxed{5}.\nThe answer is 5 apples.", None),
        ("The answer is 7.\nNo, it is \\boxed{5}.", None),
        ("<think>\\boxed{3}\nThe answer is 3.</think>So \\boxed{5}.", None),
        ("The answer is 7.", None),
        ("I cannot say, and will not say it.", None),
    ],
)
def test_other_answer(completion: str, other: str | None) -> None:
    assert other_answer(completion, completion_answer(completion)) == other
