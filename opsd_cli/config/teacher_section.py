"""The config section of the teacher: its reference, weights and analyses."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from opsd_cli.config.bounds import BelowOne, Section, Tokens
from opsd_cli.config.grading_section import Grading


class Teacher(Section):
    reference: str = "solution"
    """What the teacher's prompt holds beside the question: `solution` (the worked solution),
    `answer` (the final answer alone), `sibling` (a rollout of the same question that was graded
    right in the same step), `feedback` (what the grader said of the rollout itself), a column of
    the training set, or a template with columns in braces ("Hint: {hint}"), in which {question},
    {solution} and {answer} are the problem's own."""
    without_reference: Literal["skip", "answer", "solution"] = "skip"
    """With reference: sibling or feedback, what a rollout has that no other right rollout of its
    question exists for, or that the grader said nothing of: skip (it is not trained on), answer or
    solution."""
    sibling: Literal["shortest", "longest", "random"] = "shortest"
    """With reference: sibling, which of several right rollouts."""
    contrast: Literal["none", "wrong_rollout", "other_problem"] = "none"
    """With hybrid, and with opsd and divergence.vocabulary: sampled: take a token's log-probability
    under a wrong reference, in place of the student's, from that under the right one. The wrong one
    is a rollout of the same question that was graded wrong, or another question's reference."""
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
            kinds = "solution, answer, sibling, feedback, a column or a template"
            raise ValueError(f"should be {kinds}")
        return reference


def wrong_reference(teacher: Teacher, per_question: int | None, grading: Grading) -> str | None:
    """Why a teacher's reference does not go with other settings: two lines, the second a hint.

    Args:
        per_question: `rollouts.per_question`.
    """
    if teacher.contrast != "none" and teacher.reason_first:
        return (
            "teacher.reason_first and teacher.contrast exclude each other: there is no analysis of "
            "a wrong reference\nleave one of them out"
        )
    if teacher.contrast == "wrong_rollout" and per_question == 1:
        return (
            "teacher.contrast=wrong_rollout needs several rollouts of a question, and "
            "rollouts.per_question is 1\nset rollouts.per_question=8, or teacher.contrast="
            "other_problem"
        )
    if teacher.reference not in ("sibling", "feedback"):
        return None
    if teacher.reference == "feedback":
        from opsd_cli.grading import traits_of

        if not traits_of(grading).feedback:
            return (
                "teacher.reference=feedback needs a grader that says what is wrong with a "
                f"completion, and {grading.grader} says only whether it is right\nset "
                "grading.grader=code, json, command or FILE.py:FUNCTION (docs/graders.md), or "
                "another teacher.reference"
            )
    elif per_question == 1:
        return (
            "teacher.reference=sibling needs several rollouts of a question, and "
            "rollouts.per_question is 1\nset rollouts.per_question=8, or another teacher.reference"
        )
    if teacher.reason_first:
        return (
            "teacher.reason_first needs a reference that is there before the step, and "
            f"teacher.reference is {teacher.reference}\nleave one of them out"
        )
    return None
