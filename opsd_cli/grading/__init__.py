"""Graders: what decides whether a completion is right, and how good it is.

To add a grader, write a class derived from `Grader` that also has what `GraderFactory` lists, and
add one line to `GRADERS`; the config key `grading.grader` selects it. The module of a registered
grader is imported when the grader is used; that of the math grader is cheap to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from opsd_cli.errors import ConfigError
from opsd_cli.grading.interface import (
    Grade,
    GradedProblem,
    Grader,
    GraderFactory,
    GraderTraits,
    Item,
    Status,
    Warn,
)
from opsd_cli.grading.mathematics import gold_is_matchable, grade_many
from opsd_cli.lazy import load

if TYPE_CHECKING:
    from opsd_cli.config.grading_section import Grading

__all__ = [
    "GRADERS",
    "Grade",
    "GradedProblem",
    "Grader",
    "GraderFactory",
    "GraderTraits",
    "Item",
    "Status",
    "get",
    "gold_is_matchable",
    "grade_many",
    "open_grader",
    "traits_of",
]

#: name -> "module:class".
GRADERS: dict[str, str] = {
    "math": "opsd_cli.grading.mathematics:MathGrader",
}


def get(name: str) -> GraderFactory:
    """The class of the named grader.

    Raises:
        ConfigError: there is no grader of that name, or a package that it needs is not installed.
    """
    if name not in GRADERS:
        raise ConfigError(f"unknown grader {name!r}", f"choose from {', '.join(GRADERS)}")
    try:
        return cast(GraderFactory, load(GRADERS[name]))
    except ImportError as error:
        missing = error.name or str(error)
        raise ConfigError(
            f"grader {name!r} needs the package {missing!r}, which is not installed",
            "install it, or choose another grading.grader",
        ) from error


def open_grader(settings: Grading, warn: Warn = lambda _: None) -> Grader:
    """The grader that a config's `grading` section selects, not yet entered as a context.

    Args:
        warn: tells the user of the first completion that the grader failed on.

    Raises:
        ConfigError: a package that it needs is not installed.
    """
    return get(settings.grader).from_settings(settings, settings.grader, warn)


def traits_of(settings: Grading) -> GraderTraits:
    """What the grader of a config's `grading` section reads, without opening it."""
    return get(settings.grader).traits_of(settings)
