"""The config section of grading: who judges a completion, and within which bounds."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from opsd_cli.config.bounds import Positive, Seconds, Section, Share
from opsd_cli.config.choices import GraderName

if TYPE_CHECKING:
    from opsd_cli.config.sections import Train


def _words(value: Any) -> Any:
    """A command line as its words; a list as it is."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"is no command line: {error}") from error


Command = Annotated[tuple[str, ...], BeforeValidator(_words)]


class Grading(Section):
    grader: GraderName = "math"
    """Grader that decides whether a completion is right (docs/graders.md): answers are compared as
    mathematics (math), as a letter or its option (choice), as text (exact), as a number or as JSON;
    code runs the set's unit tests, command a program of yours; FILE.py:FUNCTION and MODULE:FUNCTION
    are functions of your own. none grades nothing: validation is then the divergence from the
    teacher on held-out questions, and the likelihood of their solutions."""
    weights: dict[str, Positive] = Field({})
    """Grader -> weight: the score of a completion, which is GRPO's reward, is the weighted mean of
    these graders' scores. What is correct is decided by `grader` alone."""
    pass_at: Share = 1.0
    """Least score that counts as correct, where the grader gives numbers."""
    choices: str | None = None
    """With choice: column of the options, a list of texts or an object by letter. They are added to
    each question that lacks them, as lettered lines."""
    tests: str = "tests"
    """With code: column of the unit tests, a text or a list of statements."""
    command: Command = ()
    """With command: the program and its arguments, which reads a JSON object a line and answers
    with one."""
    ignore_case: bool = False
    """With exact: compare without upper and lower case."""
    tolerance: Share = 1e-6
    """With number: relative difference to the gold number that still counts as equal."""
    deadline_seconds: Seconds = 10.0
    """Timeout for one grade, in seconds; an answer not graded by then counts as wrong."""
    memory_gb: float = Field(2.0, ge=0.25, le=2**20)
    """On Linux, limit of the address space of a process that runs a function, unit tests or a
    command of yours, in GiB; above it the completion counts as wrong."""


def wrong_graders(grading: Grading) -> str | None:
    """Why the graders of a config do not fit, and what to do, in two lines; None if they do."""
    from opsd_cli.grading import GRADERS, is_function

    for name in grading.weights:
        if name not in GRADERS and not is_function(name):
            return (
                f"grading.weights names an unknown grader {name!r}"
                f"\nchoose from {', '.join(GRADERS)}, or FILE.py:FUNCTION"
            )
    if "command" in (grading.grader, *grading.weights) and not grading.command:
        return (
            "the grader command needs grading.command, a program of yours"
            "\nset grading.command='PROGRAM ARGUMENTS'; docs/graders.md says what it reads"
        )
    return None


def wrong_without_grades(grading: Grading, train: Train, reference: str) -> str | None:
    """Why a grader that grades nothing does not go with other settings, as `wrong_graders`.

    Args:
        reference: `teacher.reference`.
    """
    asked = {
        "grading.weights": (bool(grading.weights), "weighs the scores of graders"),
        "grading.pass_at": (grading.pass_at != 1, "is the least score that counts as correct"),
        "train.learn_from": (train.learn_from != "all", "chooses rollouts by their grade"),
        "train.weigh_groups": (train.weigh_groups != "none", "weighs questions by their grades"),
        "teacher.reference": (
            reference in ("sibling", "feedback"),
            f"is {reference}, which exists for graded rollouts alone",
        ),
    }
    found = [(key, what) for key, (there, what) in asked.items() if there]
    if not found:
        return None
    from opsd_cli.grading import grades

    if grades(grading):
        return None
    key, what = found[0]
    return (
        f"{key} {what}, and the grader none grades nothing"
        f"\nleave {key} out, or choose a grading.grader that grades (docs/graders.md)"
    )
