"""What a grader is: problems with completions in, one grade each out.

A grade is a status and not a boolean, because each status calls for something else: `no_answer` is
the model's failure to finish, `unparsable_gold` a fault of the data, `timeout` and `crashed` mark
completions that could not be checked, and `not_graded` those that nobody was to check. Only
`correct` counts as right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

if TYPE_CHECKING:
    from opsd_cli.config.grading_section import Grading
    from opsd_cli.problems import Problem

Status = Literal[
    "correct", "wrong", "no_answer", "unparsable_gold", "timeout", "crashed", "not_graded"
]  # fmt: skip
#: Statuses of completions that the grader failed on.
FAILED: tuple[Status, ...] = ("timeout", "crashed")
AnswerForm = Literal["mathematics", "text", "json"]
Warn = Callable[[str], object]
"""Tells the user one sentence."""


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    Attributes:
        status: see the module's docstring.
        answer: the extracted answer that was compared, as the completion spells it; None where
            nothing was extracted.
        score: the reward, in 0..1. Where the grader gives no number: 1.0 if correct, else 0.0.
        feedback: what the grader says of this very completion (a failing test, a violated rule).
        numeric: True if the grader gave the number; by default, if `score` is given.
        reason: why the grader failed on the completion; None if it did not, or it is not known.
    """

    status: Status
    answer: str | None = None
    score: float = None  # type: ignore[assignment]  # set below
    feedback: str | None = None
    numeric: bool = None  # type: ignore[assignment]
    reason: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # The class is frozen, so that defaults that depend on other fields are set from outside.
        if self.numeric is None:
            object.__setattr__(self, "numeric", self.score is not None)
        if self.score is None:
            object.__setattr__(self, "score", float(self.correct))

    @property
    def correct(self) -> bool:
        return self.status == "correct"

    @property
    def verdict(self) -> bool | None:
        """Whether the completion is right; None if nobody was to check it."""
        return None if self.status == "not_graded" else self.correct

    @property
    def ungraded(self) -> bool:
        """True if the grader failed on the completion: it says nothing about the model."""
        return self.status in FAILED


@dataclass(frozen=True)
class GradedProblem:
    """What a grader reads of a problem; `opsd_cli.problems.Problem` has the same attributes.

    Attributes:
        answer: the gold answer; None where the set has none.
        solution: the reference solution; None where the set has none.
        fields: the values of further columns, as JSON values.
    """

    id: str
    question: str
    answer: str | None = None
    solution: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A completion to grade, with its problem."""

    problem: Problem | GradedProblem
    completion: str


@dataclass(frozen=True)
class GraderTraits:
    """What a grader reads, and what can be done with its grades.

    Attributes:
        needs_answer: problems without a gold answer cannot be graded, and are left out.
        columns: further columns that it reads, which problems then keep in `fields`.
        answers: as what gold answers are read. For mathematics the flexible rule and the checks of
            gold answers apply, and a missing one is read off the solution's box; JSON answers may
            be objects and lists in the data.
        comparable: answers can be compared with each other, which majority votes need.
        feedback: its grades may say something of the completion (`Grade.feedback`), which
            `teacher.reference: feedback` needs.
        grades: False if it grades nothing, so that there are neither accuracies nor rewards.
    """

    needs_answer: bool = True
    columns: tuple[str, ...] = ()
    answers: AnswerForm = "text"
    comparable: bool = False
    feedback: bool = False
    grades: bool = True

    @property
    def mathematics(self) -> bool:
        return self.answers == "mathematics"


class Grader(Protocol):
    """Grades completions; a context manager that releases what it holds.

    A completion that takes longer than the grader's deadline gets the status `timeout`.
    """

    traits: GraderTraits = GraderTraits()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def check(self) -> None:
        """Raise `ConfigError` if what the user named cannot be used; mostly there is nothing."""
        return None

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        """Grade completions.

        May be called from any thread, and from several at a time.

        Returns:
            One grade per item, in order.

        Raises:
            OpsdError: the grader cannot work here.
        """
        ...

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grade pairs of (gold answer, answer), both extracted; if the traits say `comparable`.

        Majority votes call it with one answer as the gold and another as the answer.
        """
        raise NotImplementedError


class GraderFactory(Protocol):
    """What a name in `opsd_cli.grading.GRADERS` stands for: the class of a grader."""

    #: Further keys of the `grading` section that the grader reads.
    settings: ClassVar[tuple[str, ...]]

    def from_settings(self, settings: Grading, name: str, warn: Warn) -> Grader:
        """A grader.

        Args:
            name: by which `settings` selects it; a function's is its location.
            warn: called once with the first completion that the grader failed on.
        """
        ...

    def traits_of(self, settings: Grading) -> GraderTraits:
        """The traits of the grader that `from_settings` would make."""
        ...
