r"""Is this completion right: the answer extracted, compared, and given a status.

    gold, completion -> extract -> [exact match] -> worker process: normalise, parse, verify

Importing this package is cheap: math-verify and sympy are imported only within the workers, which
start when the first pair needs them. Pairs of plain integers, and answers written exactly as the
gold, are settled here: the embedded problems never start a worker.

A grade is a status and not a boolean, because what to do about each differs: `no_answer` is the
model's failure to finish, `unparsable_gold` the data's, `timeout` and `crashed` are answers that no
one can check. Only `correct` counts as right.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

from opsd_cli.errors import UsageError
from opsd_cli.grading.extract import boxed_together, completion_answer, gold_answer
from opsd_cli.grading.normalise import split_top
from opsd_cli.grading.pool import Pool
from opsd_cli.machine import available_cores

__all__ = ["DEADLINE_SECONDS", "Grade", "Grader", "Status", "gold_is_matchable", "grade_many"]

Status = Literal["correct", "wrong", "no_answer", "unparsable_gold", "timeout", "crashed"]

DEADLINE_SECONDS = 10.0
#: More would help only where nearly every answer needs parsing.
MOST_WORKERS = 4

_INTEGER = re.compile(r"([-+]?)([0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)")
_SEVERAL = re.compile(r"\\pm(?![A-Za-z])|(?<![A-Za-z])and(?![A-Za-z])")


@dataclass(frozen=True)
class Grade:
    """What became of one completion.

    Attributes:
        status: see the module's docstring.
        answer: what was compared, as the completion has it; None where there is none.
    """

    status: Status
    answer: str | None = None

    @property
    def correct(self) -> bool:
        return self.status == "correct"


class Grader:
    """Grades pairs with worker processes that stay warm between calls.

    A context manager; leaving it ends the processes. May be used from any thread, and from several,
    which then wait for each other.

    Args:
        deadline_seconds: wall-clock time for one pair once a worker has it.
        workers: most processes at a time; by default the number of cores, at most 4.

    Raises:
        UsageError: a deadline or a number of workers that is not positive.
    """

    def __init__(
        self, deadline_seconds: float = DEADLINE_SECONDS, workers: int | None = None
    ) -> None:
        _check_deadline(deadline_seconds)
        if workers is not None and workers < 1:
            raise UsageError(f"{workers} grading workers can do no work", "give at least 1")
        self.deadline_seconds = deadline_seconds
        self._pool = Pool(workers or _workers())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def grade_many(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """The grade of each (gold, completion), in order.

        Raises:
            OpsdError: a worker cannot be started.
        """
        return _grade(self._pool, pairs, self.deadline_seconds)


def grade_many(
    pairs: Sequence[tuple[str, str]], deadline_seconds: float = DEADLINE_SECONDS
) -> list[Grade]:
    """The grade of each (gold, completion), in order.

    The workers are shared by all callers of this function and end with the program.

    Args:
        pairs: the gold is an answer, bare or in dollars, or a solution whose last box holds it.
        deadline_seconds: wall-clock time for one pair once a worker has it.

    Raises:
        UsageError: a deadline that is not positive.
        OpsdError: a worker cannot be started.
    """
    _check_deadline(deadline_seconds)
    return _grade(_shared_pool(), pairs, deadline_seconds)


def gold_is_matchable(gold: str) -> bool:
    r"""Whether any completion at all could be graded right against a gold.

    It is graded against itself in a box, without a worker: an answer that is empty, nothing but
    marks, cut off (`\boxed{`) or unbalanced comes back as something else or as nothing. A gold that
    nobody can parse still matches its own text, so it passes. Linear in the length of the text.
    """
    answer = gold_answer(gold)
    if answer is None or not _bare(answer).strip(" \t\n$.,;:"):
        return False
    boxed = completion_answer(rf"\boxed{{{answer}}}")
    return boxed is not None and _settle(answer, boxed) == "correct"


_shared: Pool | None = None
_shared_lock = threading.Lock()


def _shared_pool() -> Pool:
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool(_workers())
        return _shared


def _workers() -> int:
    return min(MOST_WORKERS, available_cores())


def _check_deadline(seconds: float) -> None:
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(
            f"a grading deadline of {seconds} seconds is not a time", "give a positive number"
        )


def _grade(pool: Pool, pairs: Sequence[tuple[str, str]], seconds: float) -> list[Grade]:
    grades: dict[int, Grade] = {}
    unsettled: dict[int, tuple[str, str]] = {}
    for i, (gold_text, completion) in enumerate(pairs):
        gold, answer = gold_answer(gold_text), completion_answer(completion)
        status: Status | None
        if gold is None:
            status = "unparsable_gold"
        elif answer is None:
            status = "no_answer"
        else:
            if _lists(gold):
                answer = boxed_together(completion) or answer
            status = _settle(gold, answer)
            if status is None:
                unsettled[i] = (gold, answer)
                continue
        grades[i] = Grade(status, answer)
    statuses = pool.statuses(list(unsettled.values()), seconds) if unsettled else []
    for (i, (_, answer)), found in zip(unsettled.items(), statuses, strict=True):
        grades[i] = Grade(cast(Status, found), answer)
    return [grades[i] for i in range(len(grades))]


def _lists(gold: str) -> bool:
    """Whether a gold is several answers, and so several boxes may give them."""
    if "," not in gold and ";" not in gold and "and" not in gold and "\\pm" not in gold:
        return False
    bare = _bare(gold)
    if bare.startswith(("(", "[", "\\{")) and bare.endswith((")", "]", "\\}")):
        bare = bare.lstrip("\\")[1:-1].rstrip("\\")
    parts = split_top(bare.replace("$", " "))
    return _integer(bare) is None and (len(parts) > 1 or bool(_SEVERAL.search(bare)))


def _settle(gold: str, answer: str) -> Status | None:
    """The status where no mathematics is needed to know it, otherwise None."""
    gold, answer = _bare(gold), _bare(answer)
    if gold == answer:
        return "correct"
    ours, theirs = _integer(gold), _integer(answer)
    if ours is None or theirs is None:
        return None
    return "correct" if ours == theirs else "wrong"


def _bare(text: str) -> str:
    """Without the space and the dollars around it."""
    text = text.strip()
    if len(text) > 2 and text.startswith("$") and text.endswith("$") and text.count("$") == 2:
        text = text[1:-1].strip()
    return text


def _integer(text: str) -> str | None:
    """The one spelling of a plain integer; kept as text, as int() refuses very long ones."""
    match = _INTEGER.fullmatch(text)
    if not match:
        return None
    digits = match[2].replace(",", "").lstrip("0") or "0"
    return digits if match[1] != "-" or digits == "0" else "-" + digits
