"""What a failed preflight says of its completions: shares, and what became of one sample."""

from __future__ import annotations

import re
from typing import Any

import pytest

from opsd_cli.training.preflight_failure import described_pair, described_sample, failure_line
from opsd_cli.training.preflight_verdict import Outcome


def record(outcome: Outcome, truncated: float, no_answer: float, **more: Any) -> dict[str, Any]:
    """The record of a preflight in which both roles have the same outcome."""
    roles = ("student", "teacher")
    return {
        **{role: {"value": outcome.right, "low": 0.0, "high": 1.0} for role in roles},
        "truncated": dict.fromkeys(roles, truncated),
        "no_answer": dict.fromkeys(roles, no_answer),
        "outcomes": dict.fromkeys(roles, outcome.as_dict()),
        **more,
    }


@pytest.mark.parametrize(
    ("outcome", "truncated", "no_answer"),
    [
        # Right and wrong completions that ended at the limit, as a grader of forms finds them.
        (Outcome(0.25, 0.25, 0.5), 1.0, 0.0),
        (Outcome(0.0, 0.5, 0.25, 0.25), 1.0, 0.5),
        (Outcome(0.25, 0.25, 0.0, 0.0, 0.25, 0.25), 0.5, 0.25),
    ],
)
def test_preflight_failure_shares_do_not_overlap(
    outcome: Outcome, truncated: float, no_answer: float
) -> None:
    line = failure_line(record(outcome, truncated, no_answer), 4, 64, None)
    for role, shares in zip(("with", "without"), line.split("; without it "), strict=True):
        of_role = shares.rpartition("Of the completions with the reference ")[2]
        percents = [int(each) for each in re.findall(r"(\d+)%", of_role)]
        assert sum(percents) == pytest.approx(100 - 100 * outcome.right), role
    assert ("could not be graded" in line) == (outcome.ungraded > 0)


def test_preflight_failure_of_a_grader_with_numbers_does_not_say_that_answers_are_wrong() -> None:
    scores = {role: {"value": 0.5, "low": 0.4, "high": 0.6} for role in ("student", "teacher")}
    line = failure_line(record(Outcome(0.0, 1.0), 0.0, 0.0, mean_score=scores), 4, 64, None)
    assert "mean score 0.500 with it" in line
    assert "100% were not right" in line and "gave a wrong answer" not in line


def row(**more: Any) -> dict[str, Any]:
    """A sample that the grader found not right, without an answer of its own."""
    return {
        "role": "teacher", "question": "1 + 1", "gold": None, "completion": "It is three.",
        "finish_reason": "stop", "status": "wrong", "answer": None,
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "(not right)"),
        ({"score": 0.25}, "(not right: score 0.25)"),
        ({"answer": "3", "gold": "2"}, "(answered 3; the right answer is 2)"),
        ({"finish_reason": "length"}, "(not right, cut off at 64 tokens)"),
    ],
)
def test_preflight_sample_without_answers_names_none(more: dict[str, Any], said: str) -> None:
    assert said in described_sample(row(**more), 64)
    assert "None" not in described_sample(row(**more), 64)
    pair = described_pair(row(role="student", **more), row(**more), 64)
    assert "None" not in pair and ("right answer: 2" in pair) == ("gold" in more)
