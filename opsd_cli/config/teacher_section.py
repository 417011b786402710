"""The config section of the teacher: its reference, weights and analyses."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from opsd_cli.config.bounds import BelowOne, Section, Tokens


class Teacher(Section):
    reference: str = "solution"
    """What the teacher's prompt holds beside the question: `solution` (the worked solution),
    `answer` (the final answer alone), `sibling` (a rollout of the same question that was graded
    right in the same step), a column of the training set, or a template with columns in braces
    ("Hint: {hint}"), in which {question}, {solution} and {answer} are the problem's own."""
    without_sibling: Literal["skip", "answer", "solution"] = "skip"
    """With reference: sibling, what a rollout has that no other right rollout of its question
    exists for: skip (it is not trained on), answer or solution."""
    sibling: Literal["shortest", "longest", "random"] = "shortest"
    """With reference: sibling, which of several right rollouts."""
    weights: Literal["initial", "live", "ema"] = "initial"
    """The teacher's weights: those before training, the student's current ones, or an exponential
    moving average (EMA) of the student's."""
    ema_decay: BelowOne = 0.99
    """Decay of the EMA: the share of the old average kept at each optimiser step."""
    reason_first: bool = False
    """Let the teacher write an analysis of the reference first; it becomes part of the teacher's
    prompt."""
    analysis_tokens: Tokens = 512
    """Maximum length of an analysis, in tokens."""

    @field_validator("reference")
    @classmethod
    def _not_blank(cls, reference: str) -> str:
        if not reference.strip():
            raise ValueError("should be solution, answer, sibling, a column or a template")
        return reference


def wrong_reference(teacher: Teacher, per_question: int | None) -> str | None:
    """Why a teacher's reference does not go with other settings: two lines, the second a hint.

    Args:
        per_question: `rollouts.per_question`.
    """
    if teacher.reference != "sibling":
        return None
    if per_question == 1:
        return (
            "teacher.reference=sibling needs several rollouts of a question, and "
            "rollouts.per_question is 1\nset rollouts.per_question=8, or another teacher.reference"
        )
    if teacher.reason_first:
        return (
            "teacher.reason_first needs a reference that is there before the step, and "
            "teacher.reference is sibling\nleave one of them out"
        )
    return None
