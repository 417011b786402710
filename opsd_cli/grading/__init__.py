"""Graders: what decides whether a completion is right, and how good it is.

To add a grader, write a class derived from `Grader` that also has what `GraderFactory` lists, and
add one line to `GRADERS`; the config key `grading.grader` selects it. The module of a registered
grader is imported when the grader is used; that of the math grader is cheap to import. A name with
a colon, FILE.py:FUNCTION or MODULE:FUNCTION, is a function of the user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

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
    "check_grader",
    "described",
    "function_files",
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
#: The grader of every name with a colon.
FUNCTIONS = "opsd_cli.grading.judges:FunctionGrader"


def is_function(name: str) -> bool:
    """True for FILE.py:FUNCTION and MODULE:FUNCTION."""
    where, colon, function = name.rpartition(":")
    return bool(colon and where and function.isidentifier())


def get(name: str) -> GraderFactory:
    """The class of the named grader.

    Raises:
        ConfigError: there is no grader of that name, or a package that it needs is not installed.
    """
    if name not in GRADERS and not is_function(name):
        raise ConfigError(
            f"unknown grader {name!r}", f"choose from {', '.join(GRADERS)}, or FILE.py:FUNCTION"
        )
    try:
        return cast(GraderFactory, load(GRADERS.get(name, FUNCTIONS)))
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


def check_grader(settings: Grading) -> None:
    """Check that the selected grader can work, before anything is sampled.

    Raises:
        ConfigError: a package, file, module, function or command is missing or cannot be used.
    """
    with open_grader(settings) as grader:
        grader.check()


def traits_of(settings: Grading) -> GraderTraits:
    """What the grader of a config's `grading` section reads, without opening it."""
    return get(settings.grader).traits_of(settings)


def described(settings: Grading) -> dict[str, Any]:
    """What must agree for grades to be comparable.

    Returns:
        "grader", its name; and "grading", the settings that it reads with the digests of the
        user's files, for a grader that has any.
    """
    values = settings.model_dump(mode="json")
    read: dict[str, Any] = {key: values[key] for key in get(settings.grader).settings}
    files = function_files(settings)
    read |= {"files": files} if files else {}
    return {"grader": settings.grader} | ({"grading": read} if read else {})


def function_files(settings: Grading) -> dict[str, str]:
    """File -> SHA-256, of the user's functions that are graders."""
    from opsd_cli.grading.user_files import digest_of

    found = {}
    for name in (settings.grader,):
        digest = digest_of(name) if is_function(name) else None
        if digest is not None:
            found[name.rpartition(":")[0]] = digest
    return found
