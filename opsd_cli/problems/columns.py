"""From rows with columns of any name to problems, counting what is left out.

Rows come from files and from hub data sets alike; here a column is found for each of the four
roles (question, solution, answer, id) and its values become text. Nothing is used silently:

* a row in whose values a NUL, or what is no valid Unicode, stands is left out as damaged: mended
  text would be other text than the file's;
* a value that is null, blank, an object or a list of several items is no text, and its row is
  counted as lacking it (a list of one item counts as the item: some sets wrap each answer so);
* without an answer, the one that the solution marks (a box, or GSM8K's "####") is taken, and an
  answer that is itself such a text is reduced to what it marks; both are counted as derived;
* a question seen before is dropped, since a problem in a set twice weighs twice;
* an answer that no completion could match, one that contradicts its solution's box, and control
  characters of lost backslashes are counted and told, and the rows used: a benchmark keeps its
  size (see `opsd_cli.problems.oddities`);
* an id shared by two questions is an error: seeds and resumed evaluations hang on ids.

Column names are known by default only where their meaning is settled. `solution` means a trace,
a proof or a bare answer depending on the set, so any other name must be mapped by the reader.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from opsd_cli.errors import DataError, UsageError
from opsd_cli.grading import gold_is_matchable
from opsd_cli.grading.extract import last_boxed
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.oddities import NONE, Oddity, differ, has_control, quoted
from opsd_cli.problems.selection import Selection
from opsd_cli.problems.values import DamagedText, text_of

#: The roles, each with the column names taken for it unasked, compared without case.
RECOGNISED: dict[str, tuple[str, ...]] = {
    "question": ("question", "problem"),
    "solution": ("solution",),
    "answer": ("answer",),
    "id": (),
}
MOST_COLUMNS_SHOWN = 20
#: The last line of a solution in GSM8K: "#### 18".
HASHES = re.compile(r"^####[ \t]*(\S.*)$", re.MULTILINE)


def choose(
    names: Sequence[str],
    columns: Mapping[str, str | None] | None,
    *,
    name: str,
    need_solution: bool,
    need_answer: bool,
    selection: Selection | None = None,
) -> dict[str, str]:
    """The column of each role: the mapped one, or one whose name is recognised.

    Args:
        names: the columns there are, fields of nested ones written with dots ("reward.answer").
        columns: role -> column, as in `data.columns`; roles left out or None go by recognised
            names. A column mapped to one role is not recognised for another.
        name: of the set, for messages.
        need_solution, need_answer: whether the set is of no use without one. A mapped solution
            that does not exist is passed over where none is needed.
        selection: its columns must exist too.

    Raises:
        DataError: an unknown role, a mapped column that does not exist, or none for a needed role.
    """
    for needed in sorted(selection.columns if selection else ()):
        if needed not in names:
            raise DataError(
                f"{name} has no column {needed!r} to select by; it has {_listed(names)}",
                _suggestion(needed, names) + "check keep, drop and verified_by",
            )
    chosen: dict[str, str] = {}
    for role, column in (columns or {}).items():
        if role not in RECOGNISED:
            raise DataError(
                f"{role!r} is not a column that problems have",
                _suggestion(role, RECOGNISED) + f"the keys are {', '.join(RECOGNISED)}",
            )
        # One config names the columns of all its files, and those that only test models may lack
        # solutions.
        if column is None or (role == "solution" and not need_solution and column not in names):
            continue
        if column not in names:
            raise DataError(
                f"{name} has no column {column!r} for the {role}; it has {_listed(names)}",
                _suggestion(column, names) + f"set data.columns.{role} to one of these columns",
            )
        chosen[role] = column
    free = [column for column in names if column not in chosen.values()]
    for role, known in RECOGNISED.items():
        for column in (c for key in known for c in free if c.casefold() == key):
            chosen.setdefault(role, column)
    # An answer can be read off a solution, so either column will do for it.
    for role, found in (
        ("question", "question" in chosen),
        ("solution", "solution" in chosen or not need_solution),
        ("answer", bool(chosen.keys() & {"solution", "answer"}) or not need_answer),
    ):
        if not found:
            raise DataError(
                f"{name} has no column for the {role}; it has {_listed(names)}",
                f"name the column with --set data.columns.{role}=COLUMN",
            )
    return chosen


def build(
    rows: Iterable[Mapping[str, Any]],
    chosen: Mapping[str, str],
    *,
    name: str,
    need_solution: bool,
    need_answer: bool,
    limit: int | None = None,
    selection: Selection | None = None,
) -> ProblemSet:
    """The problems in `rows`, read through the columns that `choose` found.

    Args:
        rows: mappings from column names to values; read no further than `limit` needs.
        chosen: role -> column.
        name: of the set, for problems and messages.
        need_solution, need_answer: leave out rows that lack one.
        limit: stop after so many problems.
        selection: which rows, and which items of lists; by default everything.

    Raises:
        DataError: no row is usable, or two questions share an id.
        UsageError: limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} leaves no problems", "give a limit of at least 1")
    problems: list[Problem] = []
    ids: set[str] = set()
    seen: dict[str, str] = {}
    counts: Counter[str] = Counter()
    odd: defaultdict[str, Oddity] = defaultdict(lambda: NONE)
    limited = False
    selection = selection or Selection()
    for row in rows:
        if len(problems) == limit:
            limited = True
            break
        counts["rows"] += 1
        number = f"row {counts['rows']:,}"
        try:
            if not selection.admits(row):
                counts["not_selected"] += 1
                continue
            question, solution, answer, given_id = (
                text_of(selection.value(row, chosen[role], role)) if role in chosen else None
                for role in RECOGNISED
            )
        except DamagedText as damage:
            odd["damaged"] = odd["damaged"].more(f"{number} has {damage}")
            continue
        given = answer
        derived = _marked_answer(answer or solution or "")
        answer = derived or answer
        if question is None:
            counts["no_question"] += 1
        elif need_solution and solution is None:
            counts["no_solution"] += 1
        elif need_answer and answer is None:
            counts["no_answer"] += 1
        elif (digest := _digest(question)) in seen:
            counts["duplicates"] += 1
            if answer is not None and differ(answer, seen[digest]):
                told = f"{number} says {quoted(answer)}, and before it was {quoted(seen[digest])}"
                odd["conflicting"] = odd["conflicting"].more(told)
        else:
            problem_id = given_id or digest
            if problem_id in ids:
                raise DataError(
                    f"{name} gives the id {problem_id!r} to two questions, "
                    f"the second in row {counts['rows']}",
                    "give each problem an id of its own, or leave data.columns.id unset",
                )
            seen[digest] = answer or ""
            ids.add(problem_id)
            counts["derived"] += derived is not None
            for kind, told in _oddities(question, solution, answer, given):
                odd[kind] = odd[kind].more(f"{number}{told}")
            problems.append(Problem(problem_id, question, solution, answer, source=name))
    report = LoadReport(
        rows=counts["rows"],
        used=len(problems),
        not_selected=counts["not_selected"],
        no_question=counts["no_question"],
        no_solution=counts["no_solution"],
        no_answer=counts["no_answer"],
        derived_answers=counts["derived"],
        duplicates=counts["duplicates"],
        limited=limited,
        **odd,
    )
    if not problems:
        raise _nothing_usable(report, chosen, name)
    notes = tuple(f"{name}: {warning}" for warning in report.warnings())
    return ProblemSet(name, tuple(problems), report, notes=notes)


def _oddities(
    question: str, solution: str | None, answer: str | None, given: str | None
) -> Iterator[tuple[str, str]]:
    """What is odd about a row that is used: the report's field, and the words of the example."""
    if answer is not None and not gold_is_matchable(answer):
        yield "unmatchable", f": {quoted(answer)}"
    if given is not None and answer is not None and solution is not None:
        boxed = _last_marked(solution)
        if boxed is not None and differ(answer, boxed):
            yield "contradicting", f" has {quoted(answer)}, its solution {quoted(boxed)}"
    for text in filter(None, (question, solution, answer)):
        if has_control(text):
            yield "control", ""
            break


def _last_marked(solution: str) -> str | None:
    """What a solution marks last, found from its end: it is long, and every row has one."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        start = solution.rfind("\n####")
    return _marked_answer(solution[start:]) if start >= 0 else None


def _marked_answer(text: str) -> str | None:
    r"""The last `\boxed{...}` of a text, or else what follows its last "####"."""
    boxed = last_boxed(text)
    hashes = HASHES.findall(text)
    return boxed or (hashes[-1].strip() if hashes else None)


def _digest(question: str) -> str:
    """A name for a question that survives changes of line breaks and spacing."""
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:16]


def _nothing_usable(report: LoadReport, chosen: Mapping[str, str], name: str) -> DataError:
    if not report.rows:
        return DataError(f"{name} has no rows", "give a file with at least one problem")
    read = ", ".join(f"{role} from {column!r}" for role, column in chosen.items())
    return DataError(
        f"none of the {report.rows:,} rows of {name} can be used: {report.skipped()}",
        f"columns read: {read}; values must be text or numbers, and data.columns.* can name "
        "other columns or fields inside them, as in reward.answer",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MOST_COLUMNS_SHOWN]) or "no columns"
    more = len(names) - MOST_COLUMNS_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")


def _suggestion(wrong: str, right: Collection[str]) -> str:
    lowered = {name.casefold(): name for name in right}
    close = difflib.get_close_matches(wrong.casefold(), lowered, n=1, cutoff=0.6)
    return f"did you mean {lowered[close[0]]!r}? " if close else ""
