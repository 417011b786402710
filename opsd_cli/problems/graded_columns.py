"""What the grader of a config asks of the problems: columns, answers, and how answers are read."""

from __future__ import annotations

from dataclasses import replace

from opsd_cli.config.schema import Config
from opsd_cli.grading import traits_of
from opsd_cli.problems.selection import Selection


def kept_columns(config: Config) -> tuple[str, ...]:
    """The further columns that problems keep: those of `data.fields`, and those graded by."""
    return tuple(dict.fromkeys((*config.data.fields, *traits_of(config.grading).columns)))


def needs_answer(config: Config) -> bool:
    """False where problems without a gold answer can be graded too."""
    return traits_of(config.grading).needs_answer


def read_for(config: Config, selection: Selection | None = None) -> Selection:
    """The selection, with answers read as the grader reads them."""
    return replace(selection or Selection(), answers=traits_of(config.grading).answers)
