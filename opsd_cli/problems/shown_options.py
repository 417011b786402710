"""Questions of multiple choice with their options, where a column has these (`grading.choices`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from opsd_cli.config.schema import Config
from opsd_cli.grading import traits_of
from opsd_cli.grading.answers import folded, options_of
from opsd_cli.problems import Problem, ProblemSet


def with_options(loaded: ProblemSet, config: Config) -> ProblemSet:
    """The set, with the options of each problem at the end of its question, a lettered line each.

    Both roles' prompts then have them. A question that has the text of every option is left as it
    is; so are all, if the grader reads no column of options. Ids do not change.
    """
    column = config.grading.choices
    if column is None or column not in traits_of(config.grading).columns:
        return loaded
    problems = tuple(
        _shown(problem, options_of(problem.fields.get(column))) for problem in loaded.problems
    )
    return replace(loaded, problems=problems)


def _shown(problem: Problem, options: Mapping[str, str]) -> Problem:
    if all(_holds(problem.last_turn, text) for text in options.values()):
        return problem
    lines = "".join(f"\n{letter}) {text}" for letter, text in options.items())
    turns = problem.turns
    if turns:
        role, text = turns[-1]
        turns = (*turns[:-1], (role, text.rstrip() + lines))
    return replace(problem, question=problem.question.rstrip() + lines, turns=turns)


def _holds(question: str, option: str) -> bool:
    """Whether a question has the text of an option, and not as a part of a longer word."""
    return re.search(rf"(?<!\w){re.escape(folded(option))}(?!\w)", folded(question)) is not None
