"""Questions that two sets of problems share.

Two questions are equal if they differ in line breaks, spacing and case alone. A chat also has the
questions of its single user turns: what it answers on the way must not be measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opsd_cli.errors import DataError
from opsd_cli.problems import Problem, ProblemSet

#: Letters of a shared question that an error shows.
_SHOWN = 60


def normalised(problem: Problem) -> str:
    """A question without differences in line breaks, spacing and case."""
    return _normalised(problem.question)


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()


def _asked(problem: Problem) -> set[str]:
    """The question, and those that the user's turns of a chat ask."""
    turns = {_normalised(text) for role, text in problem.turns if role == "user"}
    return turns | {normalised(problem)}


def divided(
    problems: Iterable[Problem], others: Iterable[Problem]
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Two parts of `problems`: those that ask what `others` ask, last, and the rest."""
    questions = {normalised(problem) for problem in others}
    own: list[Problem] = []
    shared: list[Problem] = []
    for problem in problems:
        (own if questions.isdisjoint(_asked(problem)) else shared).append(problem)
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
