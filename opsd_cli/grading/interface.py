"""What a grader is: pairs of gold answer and completion in, one grade a pair out.

A grade is a status and not a boolean, because each status calls for something else: `no_answer` is
the model's failure to finish, `unparsable_gold` a fault of the data, `timeout` and `crashed` mark
answers that could not be checked. Only `correct` counts as right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

Status = Literal["correct", "wrong", "no_answer", "unparsable_gold", "timeout", "crashed"]


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    Attributes:
        status: see the module's docstring.
        answer: the extracted answer that was compared, as the completion spells it; None where
            nothing could be extracted.
    """

    status: Status
    answer: str | None = None

    @property
    def correct(self) -> bool:
        return self.status == "correct"


class Grader(Protocol):
    """Grades completions against gold answers; a context manager that releases what it holds.

    A pair that takes longer than the grader's deadline gets the status `timeout`.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def grade_many(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        r"""Grade pairs of (gold answer, completion).

        May be called from any thread, and from several at a time. Majority votes call it too, with
        one answer as the gold and another as the completion `\boxed{answer}`.

        Returns:
            One grade per pair, in order.

        Raises:
            OpsdError: the grader cannot work here.
        """
        ...


class GraderFactory(Protocol):
    """What a name in `opsd_cli.grading.GRADERS` stands for: mostly the class of a grader."""

    def __call__(self, *, deadline_seconds: float) -> Grader:
        """A grader.

        Args:
            deadline_seconds: wall-clock time, in seconds, that one pair may take.
        """
        ...
