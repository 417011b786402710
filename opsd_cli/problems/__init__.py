"""Problems and problem sets, and the report on what loading a set left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opsd_cli.formatting import numbered
from opsd_cli.problems.anomalies import NONE, Anomaly


@dataclass(frozen=True)
class Problem:
    """A question with its reference solution and gold answer, where these are known.

    Attributes:
        id: unique within a set and stable between runs. Several sets may number their problems
            1, 2, 3, so prompts, seeds and rollouts are identified by `key`, never by the id alone.
        solution: worked text, the teacher's privileged context.
        answer: the bare final answer that completions are graded against.
        source: name of the file or set that the problem is from.
        fields: the row's values of the columns in `data.fields`, as plain JSON values, for graders
            and reference templates that read more than the four values above.
        turns: of a chat with more than the user's turn, (role, text) of each turn before the
            answer: a system turn first, where there is one, and then user and assistant turns, the
            last of which is the user's. `question` is then the conversation as text, without the
            system turn. Empty for a plain question.
    """

    id: str
    question: str
    solution: str | None
    answer: str | None
    source: str
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def last_turn(self) -> str:
        """What the user asks last: of a plain question, the question."""
        return self.turns[-1][1] if self.turns else self.question

    @property
    def system(self) -> str | None:
        """The chat's own system turn."""
        return self.turns[0][1] if self.turns and self.turns[0][0] == "system" else None

    @property
    def earlier_turns(self) -> tuple[tuple[str, str], ...]:
        """(role, text) of the turns before the last, without the system turn."""
        return tuple(turn for turn in self.turns[:-1] if turn[0] != "system")

    @property
    def characters(self) -> int:
        """Characters of all that is asked."""
        return len(self.question) + len(self.system or "")

    @property
    def key(self) -> tuple[str, str]:
        """(source, id): unique among all problems that one command reads."""
        return self.source, self.id


#: Counts of the load report -> why these rows were left out.
_REASONS = {
    "no_question": "without a question",
    "no_solution": "without a solution",
    "no_reference": "without a value of teacher.reference",
    "no_answer": "without an answer",
    "duplicates": "with a question seen before",
}


@dataclass(frozen=True)
class LoadReport:
    """Counts of the rows that were read, by what was done with them.

    Each row is counted in exactly one of `used`, `not_selected`, `damaged`, `unusable_chats`,
    `no_question`, `no_solution`, `no_reference`, `no_answer` and `duplicates`; these add up to
    `rows`. The other anomalies are only reported: they change neither which rows are used nor how
    they are graded.

    Attributes:
        not_selected: rows that the set's description leaves out.
        no_reference: rows without a value of a column that `teacher.reference` names.
        damaged: rows with a NUL or invalid Unicode in a value that would be used.
        unusable_chats: rows with a chat of another form than `opsd_cli.problems.chats` reads.
        derived_answers: used rows whose answer was extracted from a longer text, mostly the
            solution.
        limited: reading stopped at a limit before the end of the set.
        unmatchable: used rows with a gold answer that no completion can match.
        contradicting: used rows whose answer differs from the answer in their solution.
        control: used rows with control characters, as a lost backslash leaves them.
        conflicting: duplicates whose answer differs from that of the first occurrence.
        left_out_rows: `no_question` and the other counts of rows that were left out -> these rows.
    """

    rows: int
    used: int
    not_selected: int = 0
    no_question: int = 0
    no_solution: int = 0
    no_answer: int = 0
    derived_answers: int = 0
    duplicates: int = 0
    limited: bool = False
    damaged: Anomaly = NONE
    unmatchable: Anomaly = NONE
    contradicting: Anomaly = NONE
    control: Anomaly = NONE
    conflicting: Anomaly = NONE
    no_reference: int = 0
    unusable_chats: Anomaly = NONE
    left_out_rows: Mapping[str, Anomaly] = field(default_factory=dict, compare=False, repr=False)

    @property
    def remarkable(self) -> bool:
        """True if the report says more than the number of rows."""
        return bool(self.skipped() or self.derived_answers or self.unmatchable.count)

    def faults(self) -> tuple[tuple[str, Anomaly, str], ...]:
        """The kinds of probable faults that were found: name, rows, and what they are."""
        kinds = (
            ("unmatchable", self.unmatchable, "answer{s} that no completion can match"),
            (
                "contradicting",
                self.contradicting,
                "answer{s} of another value than the solution states",
            ),
            (
                "conflicting",
                self.conflicting,
                "question{s} seen before, now with another answer, left out",
            ),
            (
                "control",
                self.control,
                "row{s} with control characters, as of a backslash that was lost",
            ),
        )
        return tuple(
            (name, rows, f"{rows.count:,} {what.format(s='' if rows.count == 1 else 's')}")
            for name, rows, what in kinds
            if rows.count
        )

    def warnings(self) -> tuple[str, ...]:
        """One sentence for each kind of probable fault in the data, with its first example."""
        return tuple(f"{what} (first: {rows.first})" for _, rows, what in self.faults())

    def left_out(self) -> tuple[tuple[str, Anomaly, str], ...]:
        """The reasons for which rows were left out: name, rows, and what they are.

        Rows that a description does not select are not among them.
        """
        kinds = (
            ("damaged", self.damaged, "with damaged text"),
            ("unusable_chats", self.unusable_chats, "with a chat that cannot be used"),
            *((name, self.left_out_rows.get(name, NONE), what) for name, what in _REASONS.items()),
        )
        return tuple(
            (name, rows, f"left out, {_rows(rows.count)} {what}")
            for name, rows, what in kinds
            if rows.count
        )

    def skipped(self) -> str:
        """Why rows were left out: "3 without a solution, 2 without an answer"; may be empty."""
        reasons = (
            (self.not_selected, "not selected"),
            (self.damaged.count, f"with damaged text (first: {self.damaged.first})"),
            (
                self.unusable_chats.count,
                f"with a chat that cannot be used (first: {self.unusable_chats.first})",
            ),
            *((getattr(self, name), what) for name, what in _REASONS.items()),
        )
        return ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)

    def sentence(self) -> str:
        """The report as one line: "used 95 of 100 rows: 3 without a solution, 2 ..."."""
        skipped = self.skipped()
        if skipped:
            first = "the first " if self.limited else ""
            text = f"used {self.used:,} of {first}{_rows(self.rows)}: {skipped}"
        else:
            text = f"used {'the first' if self.limited else 'all'} {_rows(self.used)}"
        if self.derived_answers:
            text += f"; {numbered(self.derived_answers, 'answer')} read off a longer text"
        if self.unmatchable.count:
            text += (
                f"; {numbered(self.unmatchable.count, 'answer')} that cannot be matched, which "
                f"counts as wrong (first: {self.unmatchable.first})"
            )
        return text


@dataclass(frozen=True)
class ProblemSet:
    """Problems in file order, deduplicated by question and unique by id, with their load report.

    Attributes:
        revision: commit of a hub data set.
        prompt: the student's user turn that the set asks for, in place of the config's.
        caution: known problems of the set and its licence.
        notes: warnings found while loading.
        row_of: problem id -> number of its row in what was read, from 1; empty if it has none.
    """

    name: str
    problems: tuple[Problem, ...]
    report: LoadReport
    revision: str | None = None
    prompt: str | None = None
    caution: str = ""
    notes: tuple[str, ...] = ()
    row_of: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def digest(self) -> str:
        """Hash of ids, questions, turns, answers and fields in order: equal for equal sets."""
        text = "\x1f".join(f"{p.id}\x1e{p.question}\x1e{p.answer}" for p in self.problems)
        if any(p.fields for p in self.problems):
            text += json.dumps([dict(p.fields) for p in self.problems], sort_keys=True)
        if any(p.turns for p in self.problems):
            text += json.dumps([p.turns for p in self.problems])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rows(count: int) -> str:
    return numbered(count, "row")
