"""What the grader of a config asks of the problems: answers, and how answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.grading import traits_of
from opsd_cli.problems.selection import Selection
from opsd_cli.problems.suggestion import suggestion
from opsd_cli.prompts.references import OF_TEACHER


def refuse_columns(columns: Sequence[str]) -> None:
    """Raise `DataError` if further columns are asked of the embedded problems, which have none."""
    if columns:
        raise DataError(
            f"the embedded problems have no column {columns[0]!r}, which data.fields or "
            "teacher.reference names, or the grader reads",
            suggestion(columns[0], OF_TEACHER)
            + "name a file or a set: data.train for training, --benchmark for an evaluation",
        )


def needs_answer(config: Config) -> bool:
    """False where problems without a gold answer can be graded too."""
    return traits_of(config.grading).needs_answer


def read_for(config: Config, selection: Selection | None = None) -> Selection:
    """The selection, with answers read as the grader reads them."""
    return replace(selection or Selection(), answers=traits_of(config.grading).answers)
