"""What is probably wrong with a set's answers, row by row: for `opsd data check` and `opsd init`.

Loading finds what costs nothing (`opsd_cli.problems.anomalies`). Here the grader is asked too: it
grades each solution that states an answer as if a model had written it, and each answer is parsed.
Nothing found here is an error: a completion that spells an answer as the set does is right even if
that answer cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opsd_cli.grading import Grader, Item, gold_is_matchable
from opsd_cli.grading.extract import marks_answer
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.anomalies import NONE, Anomaly, differ, how_to_list, quoted

#: Compared with an answer to see whether the grader can parse it.
_PROBE = "0"


@dataclass(frozen=True)
class Finding:
    """Rows with one kind of probable fault.

    Attributes:
        kind: its name in `--json`.
        what: number and kind, as in "2 answers of another value than the solution states".
        rows: the first ones described; their number.
    """

    kind: str
    what: str
    rows: Anomaly

    @property
    def sentence(self) -> str:
        """What was found, with the first example."""
        return f"{self.what} (first: {self.rows.first})"

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        return {
            "kind": self.kind,
            "what": self.what,
            "count": self.rows.count,
            "rows": list(self.rows.described),
        }


def loading_findings(problems: ProblemSet) -> tuple[Finding, ...]:
    """What loading the set has found."""
    return tuple(Finding(kind, what, rows) for kind, rows, what in problems.report.faults())


def left_out_findings(problems: ProblemSet) -> tuple[Finding, ...]:
    """The rows that loading the set has left out, by reason."""
    return tuple(Finding(kind, what, rows) for kind, rows, what in problems.report.left_out())


def grading_findings(
    problems: ProblemSet, grader: Grader, most: int | None = None
) -> tuple[Finding, ...]:
    """What the grader finds in answers and solutions.

    Of mathematics: solutions graded wrong, and answers that it cannot parse. Of the other graders
    that need an answer: answers that are not right if a completion consists of them, as a letter
    without an option. Rows that loading has found already are not among them.

    Args:
        most: only so many problems, from the first.

    Returns:
        Nothing for graders that need no answer: what they read is their own affair.

    Raises: as `Grader.grade`.
    """
    if not grader.traits.needs_answer:
        return ()
    chosen = [p for p in problems.problems[:most] if p.answer is not None]
    found: tuple[tuple[str, str, Anomaly], ...] = (
        (
            "not_accepted",
            "answer{s} that the grader does not accept as a completion",
            _not_accepted(chosen, problems, grader),
        ),
    )
    if grader.traits.mathematics:
        found = _mathematical(chosen, problems, grader)
    return tuple(
        Finding(kind, f"{rows.count:,} {_numbered(what, rows.count)}", rows)
        for kind, what, rows in found
        if rows.count
    )


def _mathematical(
    chosen: Sequence[Problem], problems: ProblemSet, grader: Grader
) -> tuple[tuple[str, str, Anomaly], ...]:
    return (
        (
            "graded_wrong",
            "solution{s} graded wrong against {their} own answer",
            _graded_wrong(chosen, problems, grader),
        ),
        (
            "unparsable",
            "answer{s} that the grader cannot parse: only the same spelling is right",
            _unparsable(chosen, problems, grader),
        ),
    )


def grading_warnings(
    problems: ProblemSet, source: str, grader: Grader, most: int
) -> tuple[str, ...]:
    """A warning of each kind of fault that the grader finds, with the command that lists them.

    Args:
        source: what the set was loaded from.
        most: only so many problems, from the first.
    """
    return tuple(
        f"{problems.name}: {found.sentence}. {how_to_list(source)}"
        for found in grading_findings(problems, grader, most)
    )


def _numbered(what: str, count: int) -> str:
    return what.format(s="" if count == 1 else "s", their="its" if count == 1 else "their")


def _graded_wrong(chosen: Sequence[Problem], problems: ProblemSet, grader: Grader) -> Anomaly:
    told = [p for p in chosen if p.solution is not None and marks_answer(p.solution)]
    grades = grader.grade([Item(p, p.solution or "") for p in told])
    rows = NONE
    for problem, grade in zip(told, grades, strict=True):
        answer = grade.answer or ""
        if grade.status == "wrong" and not differ(problem.answer or "", answer):
            example = f" has {quoted(problem.answer or '')}, its solution "
            rows = rows.with_row(_row(problems, problem) + example + quoted(answer))
    return rows


def _not_accepted(chosen: Sequence[Problem], problems: ProblemSet, grader: Grader) -> Anomaly:
    rows = NONE
    grades = grader.grade([Item(problem, problem.answer or "") for problem in chosen])
    for problem, grade in zip(chosen, grades, strict=True):
        if not grade.correct:
            rows = rows.with_row(f"{_row(problems, problem)}: {quoted(problem.answer or '')}")
    return rows


def _unparsable(chosen: Sequence[Problem], problems: ProblemSet, grader: Grader) -> Anomaly:
    matchable = [p for p in chosen if gold_is_matchable(p.answer or "")]
    grades = grader.compare([(p.answer or "", _PROBE) for p in matchable])
    rows = NONE
    for problem, grade in zip(matchable, grades, strict=True):
        if grade.status == "unparsable_gold":
            rows = rows.with_row(f"{_row(problems, problem)}: {quoted(problem.answer or '')}")
    return rows


def _row(problems: ProblemSet, problem: Problem) -> str:
    number = problems.row_of.get(problem.id)
    return f"problem {problem.id}" if number is None else f"row {number:,}"
