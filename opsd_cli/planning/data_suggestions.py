"""What the first rows of a file say of its grader and of the teacher's reference, for `opsd init`.

The rows are read before the problems are loaded, since both settings decide which rows are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from opsd_cli import methods
from opsd_cli.config.commented import Draft
from opsd_cli.config.schema import Config
from opsd_cli.embedded import EMBEDDED
from opsd_cli.grading.answers import as_choice, bare, options_of
from opsd_cli.problems.catalog import describe
from opsd_cli.problems.cells import DamagedText, NumberText, text_of, value_at
from opsd_cli.problems.columns import choose
from opsd_cli.problems.files import open_file
from opsd_cli.problems.graded_columns import needs_answer

#: Rows that are looked at, from the first.
ROWS = 1000
#: Share of the rows with an answer whose options must hold it, for a column to be one of options.
MOST = 0.9
#: From this share of the rows on, a lack of solutions is no fault of single rows.
MANY = 1 / 3
#: Columns of these names, without case, may hold numbers as options; others hold texts.
OPTION_NAMES = ("options", "choices")
#: Most options of a problem: a letter each.
LETTERS = 26


@dataclass(frozen=True)
class Columns:
    """The columns of a file of training problems.

    Attributes:
        names: all of them.
        used: role -> column.
    """

    names: Sequence[str]
    used: Mapping[str, str]


def is_own_file(config: Config) -> bool:
    """True where the training problems are a file of the user's, with columns of any name."""
    data = config.data
    assert data.train is not None
    return data.train != EMBEDDED and describe(data.train, "train") is None


def columns_of(config: Config) -> Columns:
    """The columns of the training file, as a run uses them.

    Raises:
        DataError: the file cannot be read, or lacks a column that is needed.
    """
    return _columns(config, methods.get(config).reads_solutions(), needs_answer(config))


def suggest(draft: Draft) -> tuple[str, ...]:
    """Put the grader and the reference that the rows of the training file ask for into a draft.

    Returns:
        A sentence about each suggestion.

    Raises:
        DataError: the file cannot be read, or has no column for the question.
    """
    config = draft.config
    if not is_own_file(config):
        return ()
    columns, data = _columns(config, False, False), config.data.train
    rows = list(islice(open_file(Path(data or "").expanduser()).rows(columns.names), ROWS))
    found = (_suggest_choice(draft, columns, rows), _suggest_reference(draft, columns, rows))
    return tuple(sentence for sentence in found if sentence)


def _columns(config: Config, need_solution: bool, need_answer: bool) -> Columns:
    data = config.data
    assert data.train is not None
    names = list(open_file(Path(data.train).expanduser()).names)
    asked = {role: column for role, column in data.columns.model_dump().items() if column}
    used = choose(
        names, asked, name=data.train, need_solution=need_solution, need_answer=need_answer
    )
    return Columns(names, used)


def _suggest_choice(
    draft: Draft, columns: Columns, rows: Sequence[Mapping[str, Any]]
) -> str | None:
    """The grader of choices, where a column holds the options that the answers are among."""
    grader_given = draft.is_given("grading.grader")
    if "answer" not in columns.used or (grader_given and draft.config.grading.grader != "choice"):
        return None
    names = sorted(columns.names, key=lambda name: name.casefold() not in OPTION_NAMES)
    column = next((name for name in names if _holds_options(name, columns, rows)), None)
    if column is None:
        return None
    answer = columns.used["answer"]
    why = f"{answer!r} is one of the options in {column!r}"
    draft.put("grading.grader", "choice", why)
    draft.put("grading.choices", column, "column of the options, which both prompts list")
    if grader_given:
        return None
    return f"grading.grader is choice: {why} (docs/graders.md)"


def _holds_options(name: str, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> bool:
    if name in columns.used.values():
        return False
    named = name.casefold() in OPTION_NAMES
    answers = [(row, text) for row in rows if (text := _text(row, columns.used["answer"]))]
    holding = sum(_is_among(value_at(row, name), text, named) for row, text in answers)
    return bool(answers) and holding >= MOST * len(answers)


def _is_among(cell: Any, answer: str, numbers: bool) -> bool:
    """Whether a cell has at least two options, and an answer is one of them or its letter."""
    options = options_of(cell)
    if isinstance(cell, list) and not numbers:
        texts = all(isinstance(each, str) and not isinstance(each, NumberText) for each in cell)
        options = options if texts else {}
    if not 2 <= len(options) <= LETTERS:
        return False
    return as_choice(bare(answer) or "", options)[0] in options


def _suggest_reference(
    draft: Draft, columns: Columns, rows: Sequence[Mapping[str, Any]]
) -> str | None:
    """The answer as the reference, where many rows have one and no solution."""
    config = draft.config
    if (
        draft.is_given("teacher.reference")
        or not methods.get(config).reads_solutions()
        or not needs_answer(config)
        or "answer" not in columns.used
    ):
        return None
    asked = [
        row
        for row in rows
        if all(_text(row, columns.used[role]) for role in ("question", "answer"))
    ]
    solution = columns.used.get("solution")
    lacking = [row for row in asked if solution is None or not _text(row, solution)]
    if not asked or len(lacking) < MANY * len(asked):
        return None
    first = "the first " if len(rows) == ROWS else ""
    without = f"{len(lacking):,} of {first}{len(asked):,} rows with an answer have no solution"
    draft.put("teacher.reference", "answer", f"{without}; solution would leave these out")
    others = "sibling, the model's own right rollouts, needs none either"
    if len(lacking) < len(asked):
        others += "; solution uses the other rows alone"
    return f"teacher.reference is answer: {without}; {others} (docs/references.md)"


def _text(row: Mapping[str, Any], column: str) -> str | None:
    try:
        return text_of(value_at(row, column))
    except DamagedText:
        return None
