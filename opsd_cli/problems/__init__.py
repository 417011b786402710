"""Where questions come from: what a problem is, and what loading a set of them left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from opsd_cli.problems.oddities import NONE, Oddity


@dataclass(frozen=True)
class Problem:
    """A question with what is known of its solution and answer.

    `solution` is a worked text (the teacher's privileged context); `answer` is the bare final
    answer that completions are graded against. `id` is unique within a set and stable between
    runs; `source` names the file or set it came from. Several sets may number their problems 1, 2,
    3: what identifies a problem, for prompts, seeds and rollouts, is `key`, never the id alone.
    """

    id: str
    question: str
    solution: str | None
    answer: str | None
    source: str

    @property
    def key(self) -> tuple[str, str]:
        """(set, id): unique within everything that one command reads."""
        return self.source, self.id


@dataclass(frozen=True)
class LoadReport:
    """What became of the rows that were read.

    Each row lands in exactly one of `used`, `not_selected` (by the set's description), `damaged`
    (with a NUL, or with what is no valid Unicode, in a value that would be used), `no_question`,
    `no_solution`, `no_answer` and `duplicates`, which add up to `rows`. `derived_answers` counts
    the used problems whose answer was read off a longer text, mostly the solution. `limited` tells
    that reading stopped at a limit, before the end of the set.

    Of the rows that are used: `unmatchable` have an answer that no completion can be graded right
    against, `contradicting` another than their solution's box, `control` hold control characters
    as of a backslash that was lost; `conflicting` are duplicates left out whose answer is another
    than that of the question kept. They are reported and nothing more.
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
    damaged: Oddity = NONE
    unmatchable: Oddity = NONE
    contradicting: Oddity = NONE
    control: Oddity = NONE
    conflicting: Oddity = NONE

    @property
    def remarkable(self) -> bool:
        """Whether there is more to say than how many rows there are."""
        return bool(self.skipped() or self.derived_answers or self.unmatchable.count)

    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is probably wrong in the data, each with its first example."""
        told = (
            (self.contradicting, "answer{s} of another value than the solution's own box"),
            (self.conflicting, "question{s} seen before, now with another answer, left out"),
            (self.control, "row{s} with control characters, as of a backslash that was lost"),
        )
        return tuple(
            f"{odd.count:,} {what.format(s='' if odd.count == 1 else 's')} (first: {odd.first})"
            for odd, what in told
            if odd.count
        )

    def skipped(self) -> str:
        """Why rows were left out, as "3 without a solution, 2 without an answer"; may be empty."""
        reasons = (
            (self.not_selected, "not selected"),
            (self.damaged.count, f"with damaged text (first: {self.damaged.first})"),
            (self.no_question, "without a question"),
            (self.no_solution, "without a solution"),
            (self.no_answer, "without an answer"),
            (self.duplicates, "with a question seen before"),
        )
        return ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)

    def sentence(self) -> str:
        """One line for a person: "used 95 of 100 rows: 3 without a solution, 2 ..."."""
        skipped = self.skipped()
        if skipped:
            first = "the first " if self.limited else ""
            text = f"used {self.used:,} of {first}{_rows(self.rows)}: {skipped}"
        else:
            text = f"used {'the first' if self.limited else 'all'} {_rows(self.used)}"
        if self.derived_answers:
            text += f"; {_count(self.derived_answers, 'answer')} read off a longer text"
        if self.unmatchable.count:
            text += (
                f"; {_count(self.unmatchable.count, 'answer')} that cannot be matched, which "
                f"counts as wrong (first: {self.unmatchable.first})"
            )
        return text


@dataclass(frozen=True)
class ProblemSet:
    """Problems in file order, unique by id and by question, with the account of their loading.

    `revision` is the commit of a hub set; `prompt` a student's user turn that the set asks for;
    `caution` what is known to be odd about it; `notes` warn of what was odd about reading it.
    """

    name: str
    problems: tuple[Problem, ...]
    report: LoadReport
    revision: str | None = None
    prompt: str | None = None
    caution: str = ""
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Names the set: the same for the same questions and answers in the same order."""
        text = "\x1f".join(f"{p.id}\x1e{p.question}\x1e{p.answer}" for p in self.problems)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rows(count: int) -> str:
    return _count(count, "row")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
