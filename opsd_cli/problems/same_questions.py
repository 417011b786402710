"""Questions that two sets of problems share.

Two questions are equal if they differ in line breaks, spacing and case alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opsd_cli.errors import DataError
from opsd_cli.problems import Problem, ProblemSet

#: Letters of a shared question that an error shows.
_SHOWN = 60


def normalised(problem: Problem) -> str:
    """A question without differences in line breaks, spacing and case."""
    return " ".join(problem.question.split()).casefold()


def divided(
    problems: Iterable[Problem], others: Iterable[Problem]
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Two parts of `problems`: those whose question `others` lack, and those that they have."""
    questions = {normalised(problem) for problem in others}
    own: list[Problem] = []
    shared: list[Problem] = []
    for problem in problems:
        (shared if normalised(problem) in questions else own).append(problem)
    return tuple(own), tuple(shared)


def shared_notes(watch: ProblemSet, splits: Mapping[str, ProblemSet]) -> list[str]:
    """A sentence for each split that shares questions with the watch set.

    The watch set selects nothing, so an overlap is no fault; but its change then is not one on
    problems of another kind.
    """
    found = []
    for split, each in splits.items():
        _, shared = divided(watch.problems, each.problems)
        if shared:
            found.append(
                f"{watch.name}: {len(shared):,} of {len(watch.problems):,} watch questions are "
                f"also in the {split} set"
            )
    return found


def refuse_shared(one: ProblemSet, other: ProblemSet, hint: str) -> None:
    """Raise `DataError`, with the names of both sets and the hint, if they share a question."""
    _, shared = divided(one.problems, other.problems)
    if shared:
        questions = (
            "1 question:" if len(shared) == 1 else f"{len(shared):,} questions, the first is"
        )
        raise DataError(
            f"{one.name} and {other.name} share {questions} {shared[0].question[:_SHOWN]!r}", hint
        )
