"""Completions that state two different answers: a box, and a last line that says another."""

from __future__ import annotations

from opsd_cli.grading.extract import after_thinking, last_boxed, sentence_answer
from opsd_cli.problems.anomalies import differ

#: Characters at the end of a completion in which a sentence is looked for.
_END = 1000


def other_answer(completion: str, answer: str | None) -> str | None:
    """An answer that a completion states besides the one that is graded, with another value.

    Values are compared where both are plain numbers or both choice letters.

    Args:
        answer: the one that was graded; None if there is none.
    """
    if answer is None:
        return None
    text = after_thinking(completion)
    stated = (last_boxed(text), sentence_answer(text[-_END:]))
    return next((each for each in stated if each and differ(each, answer)), None)
