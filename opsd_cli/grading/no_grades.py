"""No grader: nothing decides whether a completion is right.

For sets without an answer that could be checked: a style, a summary, a chat. OPSD needs no grade;
what a run is measured by in place of accuracy is in `opsd_cli.evaluation.held_out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from opsd_cli.grading.interface import Grade, Grader, GraderTraits, Item, Warn

if TYPE_CHECKING:
    from opsd_cli.config.grading_section import Grading

TRAITS = GraderTraits(needs_answer=False, grades=False)


class NoGrades(Grader):
    """Gives every completion the status `not_graded`."""

    traits = TRAITS
    settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_settings(cls, settings: Grading, name: str, warn: Warn) -> NoGrades:
        return cls()

    @classmethod
    def traits_of(cls, settings: Grading) -> GraderTraits:
        return TRAITS

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        return [Grade("not_graded") for _ in items]
