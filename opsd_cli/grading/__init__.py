"""Graders: what decides whether a completion's answer is the gold answer.

To add a grader, write a class with the methods of `Grader` and add one line to `GRADERS`; the
config key `grading.grader` selects it. The module of a registered grader is imported when the
grader is used; that of the math grader is cheap to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from opsd_cli.errors import ConfigError
from opsd_cli.grading.interface import Grade, Grader, GraderFactory, Status
from opsd_cli.grading.mathematics import gold_is_matchable, grade_many
from opsd_cli.lazy import load

if TYPE_CHECKING:
    from opsd_cli.config.sections import Grading

__all__ = [
    "GRADERS",
    "Grade",
    "Grader",
    "GraderFactory",
    "Status",
    "get",
    "gold_is_matchable",
    "grade_many",
    "open_grader",
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


def open_grader(settings: Grading) -> Grader:
    """The grader that a config's `grading` section selects, not yet entered as a context.

    Raises:
        ConfigError: a package that it needs is not installed.
    """
    return get(settings.grader)(deadline_seconds=settings.deadline_seconds)
