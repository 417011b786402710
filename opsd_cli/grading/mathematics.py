r"""The grader of mathematics: extract the answer, compare it with the gold, give it a status.

    gold, completion -> extract -> [exact match] -> worker process: normalise, parse, verify

Importing this module is cheap: math-verify and sympy are imported only in the worker processes,
which start when the first pair needs them. Plain integers, words, and answers spelt exactly as the
gold, are graded in this process: the embedded problems never start a worker.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from opsd_cli.errors import UsageError
from opsd_cli.grading.extract import boxed_together, completion_answer, gold_answer
from opsd_cli.grading.interface import Grade, Grader, GraderTraits, Item, Status, Warn
from opsd_cli.grading.normalise import split_top_level
from opsd_cli.grading.pool import Pool
from opsd_cli.grading.words import are_words, folded
from opsd_cli.machine import available_cores

if TYPE_CHECKING:
    from opsd_cli.config.grading_section import Grading

#: Default of `deadline_seconds`, in seconds of wall-clock time per pair.
DEADLINE_SECONDS = 10.0
#: Maximum number of workers: more help only where nearly every answer needs parsing.
MAX_WORKERS = 4

_INTEGER = re.compile(r"([-+]?)([0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)")
_CONJUNCTION = re.compile(r"\\pm(?![A-Za-z])|(?<![A-Za-z])and(?![A-Za-z])")


class MathGrader(Grader):
    """Implements `Grader` with worker processes that stay warm between calls.

    Leaving the context ends the processes. May be used from any thread; simultaneous calls wait for
    each other.

    Args:
        deadline_seconds: wall-clock time, in seconds, for one pair once a worker has it.
        workers: maximum number of processes; by default the number of cores, at most 4.

    Raises:
        UsageError: a deadline or a number of workers that is not positive.
    """

    traits = GraderTraits(answers="mathematics", comparable=True)
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, deadline_seconds: float = DEADLINE_SECONDS, workers: int | None = None
    ) -> None:
        _check_deadline(deadline_seconds)
        if workers is not None and workers < 1:
            raise UsageError(f"{workers} grading workers can do no work", "give at least 1")
        self.deadline_seconds = deadline_seconds
        self._pool = Pool(workers or _workers())

    @classmethod
    def from_settings(cls, settings: Grading, name: str, warn: Warn) -> MathGrader:
        return cls(settings.deadline_seconds)

    @classmethod
    def traits_of(cls, settings: Grading) -> GraderTraits:
        return cls.traits

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        return self.grade_many([(item.problem.answer or "", item.completion) for item in items])

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return self.grade_many([(gold, rf"\boxed{{{answer}}}") for gold, answer in pairs])

    def grade_many(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grade pairs of (gold answer, completion).

        Returns:
            One grade per pair, in order.

        Raises:
            OpsdError: a worker cannot be started.
        """
        return _grade(self._pool, pairs, self.deadline_seconds)


def grade_many(
    pairs: Sequence[tuple[str, str]], deadline_seconds: float = DEADLINE_SECONDS
) -> list[Grade]:
    """Grade pairs of (gold answer, completion) as mathematics.

    All callers of this function share one pool of workers, which ends with the program.

    Args:
        pairs: the gold is an answer, bare or in dollar signs, or a solution whose last box holds
            the answer.
        deadline_seconds: wall-clock time, in seconds, for one pair once a worker has it.

    Returns:
        One grade per pair, in order.

    Raises:
        UsageError: a deadline that is not positive.
        OpsdError: a worker cannot be started.
    """
    _check_deadline(deadline_seconds)
    return _grade(_shared_pool(), pairs, deadline_seconds)


def gold_is_matchable(gold: str) -> bool:
    r"""True if at least one completion could be graded correct against this gold.

    The gold is graded against itself in a box, without a worker: an answer that is empty, only
    punctuation, cut off (`\boxed{`) or unbalanced is extracted as something else or not at all. A
    gold that cannot be parsed still matches its own text and passes. Time is linear in the length
    of the text.
    """
    answer = gold_answer(gold)
    if answer is None or not _bare(answer).strip(" \t\n$.,;:"):
        return False
    boxed = completion_answer(rf"\boxed{{{answer}}}")
    return boxed is not None and _grade_by_text(answer, boxed) == "correct"


_shared: Pool | None = None
_shared_lock = threading.Lock()


def _shared_pool() -> Pool:
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool(_workers())
        return _shared


def _workers() -> int:
    return min(MAX_WORKERS, available_cores())


def _check_deadline(seconds: float) -> None:
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(
            f"a grading deadline of {seconds} seconds is not a time", "give a positive number"
        )


def _grade(pool: Pool, pairs: Sequence[tuple[str, str]], seconds: float) -> list[Grade]:
    grades: dict[int, Grade] = {}
    pending: dict[int, tuple[str, str]] = {}
    for i, (gold_text, completion) in enumerate(pairs):
        gold, answer = gold_answer(gold_text), completion_answer(completion)
        status: Status | None
        if gold is None:
            status = "unparsable_gold"
        elif answer is None:
            status = "no_answer"
        else:
            if _is_list(gold):
                answer = boxed_together(completion) or answer
            status = _grade_by_text(gold, answer)
            if status is None:
                pending[i] = (gold, answer)
                continue
        grades[i] = Grade(status, answer)
    statuses = pool.statuses(list(pending.values()), seconds) if pending else []
    for (i, (_, answer)), found in zip(pending.items(), statuses, strict=True):
        grades[i] = Grade(cast(Status, found), answer)
    return [grades[i] for i in range(len(grades))]


def _is_list(gold: str) -> bool:
    """True if the gold is a list of answers, which a completion may give in several boxes."""
    if "," not in gold and ";" not in gold and "and" not in gold and "\\pm" not in gold:
        return False
    bare = _bare(gold)
    if bare.startswith(("(", "[", "\\{")) and bare.endswith((")", "]", "\\}")):
        bare = bare.lstrip("\\")[1:-1].rstrip("\\")
    parts = split_top_level(bare.replace("$", " "))
    return _integer(bare) is None and (len(parts) > 1 or bool(_CONJUNCTION.search(bare)))


def _grade_by_text(gold: str, answer: str) -> Status | None:
    """The status of equal texts, plain integers or words; None if a worker must compare.

    It is the one that `opsd_cli.grading.compare.compare` would give.
    """
    gold, answer = _bare(gold), _bare(answer)
    if gold == answer:
        return "correct"
    if are_words(gold) and are_words(answer):
        return "correct" if folded(gold) == folded(answer) else "wrong"
    gold_digits, digits = _integer(gold), _integer(answer)
    if gold_digits is None or digits is None:
        return None
    return "correct" if gold_digits == digits else "wrong"


def _bare(text: str) -> str:
    """The text without surrounding white space and one pair of dollar signs."""
    text = text.strip()
    if len(text) > 2 and text.startswith("$") and text.endswith("$") and text.count("$") == 2:
        text = text[1:-1].strip()
    return text


def _integer(text: str) -> str | None:
    """The canonical digits of a plain integer, or None.

    They stay text, since int() refuses numbers of several thousand digits.
    """
    match = _INTEGER.fullmatch(text)
    if not match:
        return None
    digits = match[2].replace(",", "").lstrip("0") or "0"
    return digits if match[1] != "-" or digits == "0" else "-" + digits
