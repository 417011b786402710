"""From rows with columns of any name to problems, with a count of what is left out.

Rows come from files and from hub data sets. Each of the four roles (question, solution, answer, id)
is assigned a column, and the column's values become text. Nothing is changed silently:

* a row with a NUL or invalid Unicode in a value that would be used is left out as damaged, since
  repaired text would differ from the file's;
* a value that is null, blank, an object or a list of several items is no text, and its row is
  counted as lacking it (a list of one item counts as the item: some sets wrap each answer so);
* a chat that is no conversation in text is left out, with the reason (`opsd_cli.problems.chats`);
* a missing answer is extracted from the solution (a box, or GSM8K's "####"), and an answer that is
  itself a worked text is reduced to the answer in it; both are counted as derived;
* a repeated question is dropped, since a duplicate would have twice the weight;
* an answer that no completion could match, one that contradicts its solution, and control
  characters are reported, and the rows used: a benchmark keeps its size (see
  `opsd_cli.problems.anomalies`);
* an id shared by two questions is an error, because seeds and resumed evaluations depend on ids.

Column names are recognised without a mapping only where their meaning is the same in all common
sets. `solution` means a trace, a proof or a bare answer depending on the set, so any other name
must be mapped explicitly. Of a column with chats, the conversation and its last answer are columns
of their own.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opsd_cli.errors import DataError, UsageError
from opsd_cli.formatting import numbered
from opsd_cli.grading import gold_is_matchable
from opsd_cli.grading.extract import sentence_answer
from opsd_cli.problems import LoadReport, Problem, ProblemSet, chats
from opsd_cli.problems.anomalies import NONE, Anomaly, differ, has_control, quoted
from opsd_cli.problems.cells import DamagedText, field_text, json_value, text_of, value_at
from opsd_cli.problems.marked_answers import last_marked, marked_answer
from opsd_cli.problems.selection import Selection
from opsd_cli.problems.suggestion import suggestion
from opsd_cli.prompts.references import OF_TEACHER

#: Role -> column names that are recognised without a mapping, compared without case.
RECOGNISED: dict[str, tuple[str, ...]] = {
    "question": ("question", "problem", *chats.QUESTIONS),
    "solution": ("solution", *chats.SOLUTIONS),
    "answer": ("answer",),
    "id": (),
}
MAX_COLUMNS_SHOWN = 20
#: What else can be done where no column holds a role.
_INSTEAD = {
    "solution": "; a teacher that needs none: --set teacher.reference=answer, or sibling",
}
#: Characters at the end of a solution in which "The answer is 12." is looked for.
_SOLUTION_END = 1000


def choose(
    names: Sequence[str],
    columns: Mapping[str, str | None] | None,
    *,
    name: str,
    need_solution: bool,
    need_answer: bool,
    selection: Selection | None = None,
    fields: Sequence[str] = (),
) -> dict[str, str]:
    """Assign a column to each role: the mapped one, or one whose name is recognised.

    Args:
        names: the columns of the set, nested fields as dotted names ("reward.answer").
        columns: the column mapping, role -> column, as in `data.columns`. For roles left out or
            None the recognised names are tried. A column mapped to one role is not recognised for
            another.
        name: of the set, for messages.
        need_solution, need_answer: whether the set cannot be used without one. A mapped solution
            column that does not exist is ignored where no solution is needed.
        selection: its columns must exist too.
        fields: more columns that must exist.

    Returns:
        role -> column, for the roles that have one.

    Raises:
        DataError: an unknown role, a mapped column that does not exist, or no column for a role
            that is needed.
    """
    for needed in sorted(selection.columns if selection else ()):
        if needed not in names:
            raise DataError(
                f"{name} has no column {needed!r} to select by; it has {_listed(names)}",
                suggestion(needed, names) + "check keep, drop and verified_by",
            )
    for needed in fields:
        if needed not in names:
            raise DataError(
                f"{name} has no column {needed!r}, which data.fields names, or a setting that "
                f"reads it; it has {_listed(names)}",
                suggestion(needed, [*names, *OF_TEACHER]) + "name a column of the file",
            )
    chosen = _mapped(names, columns or {}, name, need_solution)
    free = [column for column in names if column not in chosen.values()]
    for role, known in RECOGNISED.items():
        for column in (c for key in known for c in free if c.casefold() == key):
            chosen.setdefault(role, column)
    answered_by = (selection or Selection()).answered_by
    for role, found in (
        ("question", "question" in chosen),
        ("solution", "solution" in chosen or not need_solution),
        ("answer", bool(chosen.keys() & answered_by) or not need_answer),
    ):
        if not found:
            raise DataError(
                f"{name} has no column for the {role}; it has {_listed(names)}",
                f"name the column with --set data.columns.{role}=COLUMN{_INSTEAD.get(role, '')}",
            )
    return chosen


def _mapped(
    names: Sequence[str], columns: Mapping[str, str | None], name: str, need_solution: bool
) -> dict[str, str]:
    """The columns that the mapping assigns; raises `DataError` for a wrong role or column."""
    chosen: dict[str, str] = {}
    for role, column in columns.items():
        if role not in RECOGNISED:
            raise DataError(
                f"{role!r} is not a column that problems have",
                suggestion(role, RECOGNISED) + f"the keys are {', '.join(RECOGNISED)}",
            )
        # One mapping serves all files of a config, and test files may lack solutions.
        if column is None or (role == "solution" and not need_solution and column not in names):
            continue
        if column not in names:
            raise DataError(
                f"{name} has no column {column!r} for the {role}; it has {_listed(names)}",
                suggestion(column, names) + f"set data.columns.{role} to one of these columns",
            )
        chosen[role] = column
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
    fields: Sequence[str] = (),
    required: Sequence[str] = (),
) -> ProblemSet:
    """The problems in `rows`, read through the columns that `choose` assigned.

    Args:
        rows: mappings from column names to values; read no further than `limit` needs.
        chosen: role -> column.
        name: of the set, for problems and messages.
        need_solution, need_answer: leave out rows that lack one.
        limit: maximum number of problems.
        selection: which rows and list items are used; by default all.
        fields: more columns, whose values the problems keep.
        required: those of them that a row must have a value of, which is not blank.

    Raises:
        DataError: no row is usable, or two questions share an id.
        UsageError: limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} leaves no problems", "give a limit of at least 1")
    loading = _Loading(
        name, chosen, selection or Selection(), need_solution, need_answer, tuple(fields),
        tuple(required),
    )  # fmt: skip
    limited = False
    for row in rows:
        if len(loading.problems) == limit:
            limited = True
            break
        loading.add_row(row)
    report = loading.report(limited)
    if not loading.problems:
        raise _nothing_usable(report, chosen, name)
    notes = tuple(f"{name}: {warning}" for warning in report.warnings())
    return ProblemSet(name, tuple(loading.problems), report, notes=notes, row_of=loading.row_of)


@dataclass
class _Loading:
    """The state of one `build`: the problems so far, and the counts for the load report."""

    name: str
    chosen: Mapping[str, str]
    selection: Selection
    need_solution: bool
    need_answer: bool
    fields: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    row_of: dict[str, int] = field(default_factory=dict)
    #: Digest of a question -> the answer of its first occurrence, for deduplication.
    answers: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    anomalies: defaultdict[str, Anomaly] = field(default_factory=lambda: defaultdict(lambda: NONE))
    left_out: defaultdict[str, Anomaly] = field(default_factory=lambda: defaultdict(lambda: NONE))

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Read one row: a problem, or one more row left out."""
        self.counts["rows"] += 1
        try:
            if not self.selection.admits(row):
                self.counts["not_selected"] += 1
                return
            question, solution, answer, given_id = (
                self.selection.text(row, self.chosen[role], role) if role in self.chosen else None
                for role in RECOGNISED
            )
            asked = value_at(row, self.chosen.get("question", ""))
            turns = asked.turns if isinstance(asked, chats.Conversation) else ()
            for _, text in turns:
                text_of(text)  # checks it
            fields = {name: json_value(value_at(row, name)) for name in self.fields}
        except DamagedText as damage:
            self._note("damaged", f" has {damage}")
            return
        if isinstance(asked, chats.Conversation) and asked.fault is not None:
            self._note("unusable_chats", f" has {asked.fault}")
            return
        mathematics = self.selection.answers == "mathematics"
        derived = marked_answer(answer or solution or "") if mathematics else None
        gold = derived or answer
        if question is None:
            self._leave_out("no_question")
        elif self.need_solution and solution is None:
            self._leave_out("no_solution")
        elif any(field_text(fields[name]) is None for name in self.required):
            self._leave_out("no_reference")
        elif self.need_answer and gold is None:
            self._leave_out("no_answer")
        elif (digest := _digest(question, turns)) in self.answers:
            self._leave_out("duplicates")
            first = self.answers[digest]
            if gold is not None and differ(gold, first):
                conflict = f" says {quoted(gold)}, and before it was {quoted(first)}"
                self._note("conflicting", conflict)
        else:
            self.counts["derived"] += derived is not None
            given = given_id or digest
            problem = Problem(given, question, solution, gold, self.name, fields, turns)
            self._add(problem, digest)
            for kind, example in _anomalies(question, solution, gold, mathematics):
                self._note(kind, example)

    def _add(self, problem: Problem, digest: str) -> None:
        if problem.id in self.ids:
            raise DataError(
                f"{self.name} gives the id {problem.id!r} to two questions, "
                f"the second in row {self.counts['rows']}",
                "give each problem an id of its own, or leave data.columns.id unset",
            )
        self.answers[digest] = problem.answer or ""
        self.ids.add(problem.id)
        self.row_of[problem.id] = self.counts["rows"]
        self.problems.append(problem)

    def _note(self, kind: str, example: str) -> None:
        """Count the current row under an anomaly of the load report."""
        text = f"row {self.counts['rows']:,}{example}"
        self.anomalies[kind] = self.anomalies[kind].with_row(text)

    def _leave_out(self, kind: str) -> None:
        """Count the current row as left out, for a reason of the load report."""
        self.counts[kind] += 1
        self.left_out[kind] = self.left_out[kind].with_row(f"row {self.counts['rows']:,}")

    def report(self, limited: bool) -> LoadReport:
        return LoadReport(
            rows=self.counts["rows"],
            used=len(self.problems),
            not_selected=self.counts["not_selected"],
            no_question=self.counts["no_question"],
            no_solution=self.counts["no_solution"],
            no_reference=self.counts["no_reference"],
            no_answer=self.counts["no_answer"],
            derived_answers=self.counts["derived"],
            duplicates=self.counts["duplicates"],
            limited=limited,
            left_out_rows=dict(self.left_out),
            **self.anomalies,
        )


def _anomalies(
    question: str, solution: str | None, gold: str | None, mathematics: bool
) -> Iterator[tuple[str, str]]:
    """The anomalies of a used row, as (field of the load report, text of the example).

    Args:
        gold: the answer that completions are graded against.
        mathematics: False where answers are not mathematics, so that their form says nothing.
    """
    if mathematics and gold is not None and not gold_is_matchable(gold):
        yield "unmatchable", f": {quoted(gold)}"
    if mathematics and gold is not None and solution is not None:
        for stated in (last_marked(solution), sentence_answer(solution[-_SOLUTION_END:])):
            if stated is not None and differ(gold, stated):
                yield "contradicting", f" has {quoted(gold)}, its solution {quoted(stated)}"
                break
    if any(has_control(text) for text in (question, solution, gold) if text):
        yield "control", ""


def _digest(question: str, turns: chats.Turns = ()) -> str:
    """Hash of a question, with all turns of a chat, independent of line breaks and spacing."""
    if turns:
        question = "\x1f".join(f"{role}\x1e{' '.join(text.split())}" for role, text in turns)
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:16]


def _nothing_usable(report: LoadReport, chosen: Mapping[str, str], name: str) -> DataError:
    if not report.rows:
        return DataError(f"{name} has no rows", "give a file with at least one problem")
    read = ", ".join(f"{role} from {column!r}" for role, column in chosen.items())
    if "answer" not in chosen and report.no_answer:
        return DataError(
            f"none of the {numbered(report.rows, 'row')} of {name} can be used: {report.skipped()}",
            f"columns read: {read}; end each solution in \\boxed{{ANSWER}} or `#### ANSWER`, name "
            "answers by --set data.columns.answer=COLUMN, or grade none: --set grading.grader=none",
        )
    return DataError(
        f"none of the {numbered(report.rows, 'row')} of {name} can be used: {report.skipped()}",
        f"columns read: {read}; values must be text or numbers, and data.columns.* can name "
        "other columns or fields inside them, as in reward.answer",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MAX_COLUMNS_SHOWN]) or "no columns"
    more = len(names) - MAX_COLUMNS_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
