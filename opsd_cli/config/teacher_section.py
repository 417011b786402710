"""The config section of the teacher: its model, reference, weights and analyses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from opsd_cli.config.bounds import BelowOne, Section, Tokens
from opsd_cli.config.grading_section import Grading

if TYPE_CHECKING:
    from backends.interface import TeacherWeights

#: `teacher.reference` of a teacher that sees the question alone (`opsd_cli.prompts.references`).
NO_REFERENCE = "none"
#: A column's place in a template of `teacher.reference`.
_PLACE = re.compile(r"\{[^{}\n]+\}")


class Teacher(Section):
    model: str | None = None
    """Another model as the teacher: `embedded`, a local folder, or a hub id, which may end in
    @REVISION. Its weights stay as they are, and it must have the student's vocabulary. By default,
    and with `none`, the teacher is the student's own model."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """With model: quantise its weights while it is loaded, in groups of 64. PyTorch needs the
    package bitsandbytes for it. A folder or hub id that is quantised already is read as it is."""
    reference: str = "solution"
    """What the teacher's prompt holds beside the question: `solution` (the worked solution),
    `answer` (the final answer alone), `sibling` (a rollout of the same question that was graded
    right in the same step), `feedback` (what the grader said of the rollout itself), a column of
    the training set, or a template with columns in braces ("Hint: {hint}"), in which {question},
    {solution} and {answer} are the problem's own. With model, also `none`: the student's own
    prompt."""
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

    @field_validator("model")
    @classmethod
    def _none(cls, model: str | None) -> str | None:
        return None if model == "none" else model

    @field_validator("reference")
    @classmethod
    def _not_blank(cls, reference: str) -> str:
        if not reference.strip():
            kinds = "solution, answer, sibling, feedback, none, a column or a template"
            raise ValueError(f"should be {kinds}")
        return reference

    @property
    def acting(self) -> TeacherWeights:
        """Whose weights score and write as the teacher, in the words of `backends.interface`."""
        return self.weights if self.model is None else "model"


def name_and_revision(model: str) -> tuple[str, str | None]:
    """The folder or hub id, and the revision, that a value of `teacher.model` names."""
    name, at, revision = model.rpartition("@")
    try:
        is_folder = Path(model).expanduser().exists()
    except OSError:  # a name that no folder can have
        is_folder = False
    return (name, revision) if at and name and revision and not is_folder else (model, None)


def wrong_model(teacher: Teacher) -> str | None:
    """Why a teacher's model does not go with its other settings: two lines, the second a hint."""
    if teacher.model is None:
        if teacher.quantize != "none":
            return (
                f"teacher.quantize={teacher.quantize} needs teacher.model: without one the teacher "
                "is the student's own model\nset teacher.model, or leave teacher.quantize out"
            )
        if teacher.reference == NO_REFERENCE:
            return (
                "teacher.reference=none needs teacher.model: the student's own model without a "
                "reference is the student, and there is nothing to distil\nset teacher.model, or "
                "another teacher.reference"
            )
        return None
    if not teacher.model.strip():
        return "teacher.model is empty\nname a folder or a hub id, or leave it out"
    if teacher.weights != "initial":
        return (
            f"teacher.weights={teacher.weights} is of the student's own weights, and teacher.model "
            "names another model\nleave one of them out"
        )
    if teacher.reference == NO_REFERENCE and teacher.reason_first:
        return (
            "teacher.reason_first needs a reference to write about, and teacher.reference is none"
            "\nleave one of them out"
        )
    return None


def wrong_reference(teacher: Teacher, per_question: int | None, grading: Grading) -> str | None:
    """Why a teacher's reference does not go with other settings: two lines, the second a hint.

    Args:
        per_question: `rollouts.per_question`.
    """
    if set(_PLACE.sub("", teacher.reference)) & {"{", "}"}:
        return (
            f"teacher.reference has a brace that is no part of a place: {teacher.reference!r}"
            "\nwrite each place as {COLUMN}, on one line; a brace itself cannot stand in a "
            "template, but a column's text may have braces"
        )
    if teacher.contrast != "none" and teacher.reference == NO_REFERENCE:
        return (
            "teacher.contrast sets a wrong reference against the right one, and teacher.reference "
            "is none\nleave teacher.contrast out, or give the teacher a reference"
        )
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
