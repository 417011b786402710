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
    "grades",
    "open_grader",
    "traits_of",
]

#: name -> "module:class".
GRADERS: dict[str, str] = {
    "math": "opsd_cli.grading.mathematics:MathGrader",
    "choice": "opsd_cli.grading.answers:ChoiceGrader",
    "exact": "opsd_cli.grading.answers:ExactGrader",
    "number": "opsd_cli.grading.answers:NumberGrader",
    "json": "opsd_cli.grading.json_answers:JsonGrader",
    "code": "opsd_cli.grading.judges:CodeGrader",
    "command": "opsd_cli.grading.judges:CommandGrader",
    "none": "opsd_cli.grading.no_grades:NoGrades",
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


def names_of(settings: Grading) -> list[str]:
    """The graders of a config's `grading` section; the first decides what is correct."""
    return list(dict.fromkeys((settings.grader, *settings.weights)))


def grades(settings: Grading) -> bool:
    """False if a grader of the section grades nothing: there is then no accuracy and no reward."""
    return all(get(name).traits_of(settings).grades for name in names_of(settings))


def open_grader(settings: Grading, warn: Warn = lambda _: None) -> Grader:
    """The grader that a config's `grading` section selects, not yet entered as a context.

    Args:
        warn: tells the user of the first completion that the grader failed on.

    Raises:
        ConfigError: a package that it needs is not installed.
    """
    graders = {name: get(name).from_settings(settings, name, warn) for name in names_of(settings)}
    if not settings.weights:
        return graders[settings.grader]
    from opsd_cli.grading.weighted import WeightedGrader

    return WeightedGrader(settings.grader, graders, settings.weights)


def check_grader(settings: Grading) -> None:
    """Check that the selected grader can work, before anything is sampled.

    Raises:
        ConfigError: a package, file, module, function or command is missing or cannot be used.
    """
    with open_grader(settings) as grader:
        grader.check()


def traits_of(settings: Grading) -> GraderTraits:
    """What the grader of a config's `grading` section reads, without opening it."""
    traits = [get(name).traits_of(settings) for name in names_of(settings)]
    if not settings.weights:
        return traits[0]
    from opsd_cli.grading.weighted import combined

    return combined(traits)


def described(settings: Grading) -> dict[str, Any]:
    """What must agree for grades to be comparable.

    Returns:
        "grader", its name; and "grading", the settings that it reads with the digests of the
        user's files, for a grader that has any.
    """
    values = settings.model_dump(mode="json")
    keys = [key for name in names_of(settings) for key in get(name).settings]
    read: dict[str, Any] = {key: values[key] for key in dict.fromkeys(keys)}
    read |= {"weights": values["weights"]} if settings.weights else {}
    files = function_files(settings)
    read |= {"files": files} if files else {}
    return {"grader": settings.grader} | ({"grading": read} if read else {})


def function_files(settings: Grading) -> dict[str, str]:
    """File -> SHA-256, of the user's functions that are graders."""
    from opsd_cli.grading.user_files import digest_of

    names = [name for name in names_of(settings) if is_function(name)]
    digests = {name.rpartition(":")[0]: digest_of(name) for name in names}
    return {file: digest for file, digest in digests.items() if digest is not None}
