"""Where questions come from: what a problem is, and what loading a set of them left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


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

    Each row lands in exactly one of `used`, `not_selected` (by the set's description),
    `no_question`, `no_solution`, `no_answer` and `duplicates`, which add up to `rows`.
    `derived_answers` counts the used problems whose answer was read off a longer text, mostly the
    solution. `limited` tells that reading stopped at a limit, before the end of the set.
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

    def skipped(self) -> str:
        """Why rows were left out, as "3 without a solution, 2 without an answer"; may be empty."""
        reasons = (
            (self.not_selected, "not selected"),
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
        return text


@dataclass(frozen=True)
class ProblemSet:
    """Problems in file order, unique by id and by question, with the account of their loading.

    `revision` is the commit of a hub set; `prompt` a student's user turn that the set asks for;
    `caution` what is known to be odd about it; `notes` say what was odd about reading it.
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
