"""The argument `benchmarks` of `opsd_cli.evaluate`: names, files, or `Problem` objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from opsd_cli.errors import DataError, UsageError
from opsd_cli.problems import LoadReport, Problem, ProblemSet

Names = str | Path | Sequence[str | Path]
"""Benchmarks by name (see `opsd data`), or files."""
Benchmarks = Names | ProblemSet | Sequence[Problem] | Mapping[str, Sequence[Problem]]
"""Names and files, or `Problem` objects: one list of them, or several by name."""

#: What a list of problems is called.
UNNAMED = "problems"


def asked_for(benchmarks: Benchmarks | None) -> tuple[list[str], dict[str, ProblemSet]]:
    """The names of the benchmarks, and the problem sets of those given as objects.

    Raises:
        UsageError: names and problems in one list.
        DataError: a list is empty, has an id twice, or a problem without an answer.
    """
    if benchmarks is None:
        return [], {}
    if isinstance(benchmarks, str | Path):
        return [str(benchmarks)], {}
    if isinstance(benchmarks, ProblemSet):
        return [benchmarks.name], {benchmarks.name: benchmarks}
    if isinstance(benchmarks, Mapping):
        sets = {name: problem_set(name, members) for name, members in benchmarks.items()}
        return list(sets), sets
    problems = [each for each in benchmarks if isinstance(each, Problem)]
    if len(problems) == len(benchmarks):
        return [UNNAMED], {UNNAMED: problem_set(UNNAMED, problems)}
    if problems:
        raise UsageError(
            "problems and names of benchmarks are in one list", "give either, or {NAME: problems}"
        )
    return [str(each) for each in benchmarks], {}


def problem_set(name: str, problems: Sequence[Problem]) -> ProblemSet:
    """A set of problems to evaluate on, made of `Problem` objects.

    Raises:
        DataError: there are none, or an id occurs twice.
    """
    if not problems:
        raise DataError(f"{name} holds no problems", "give one or more")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"{name} has two problems {problem.id!r}", "give each an id of its own")
        seen.add(problem.id)
    return ProblemSet(name, tuple(problems), LoadReport(rows=len(problems), used=len(problems)))
