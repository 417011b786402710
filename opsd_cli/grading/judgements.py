"""What a judge's value means as a grade, and what is said of one that means nothing.

A judge is a user's function or command. It gives a truth value, a number in 0..1, a pair of either
and a feedback text, or a mapping with `score`, `feedback` and `answer`. Anything else is the
judge's fault: `NotAGrade`.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Characters of feedback and answer that are kept.
LONGEST_TEXT = 10_000
KEYS = ("score", "feedback", "answer")


class Refused(Exception):
    """What the worker is to run cannot be run; the user is shown both lines."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class NotAGrade(Exception):
    """A judge's value that is no grade; the message says what it gave."""


def reply_of(value: Any, pass_at: float) -> dict[str, Any]:
    """The worker's reply to a judge's value.

    Args:
        pass_at: the least score that counts as correct.

    Returns:
        `status`; `score` where the judge gave a number; `feedback` and `answer` where it gave them.

    Raises:
        NotAGrade: it is none.
    """
    parts: Mapping[Any, Any]
    if isinstance(value, tuple):
        if len(value) != 2:
            raise NotAGrade(f"gave {len(value)} values, and not a score and a feedback")
        parts = {"score": value[0], "feedback": value[1]}
    elif isinstance(value, Mapping):
        parts = value
        unknown = [key for key in parts if key not in KEYS]
        if unknown or "score" not in parts:
            what = f"the key {unknown[0]!r}" if unknown else "no key 'score'"
            raise NotAGrade(f"gave a mapping with {what}; the keys are {', '.join(KEYS)}")
    else:
        parts = {"score": value}
    score = _score(parts["score"])
    reply: dict[str, Any] = {"status": "correct" if float(score) >= pass_at else "wrong"}
    if score is not True and score is not False:
        reply["score"] = score
    for key in KEYS[1:]:
        text = parts.get(key)
        if text is None:
            continue
        if not isinstance(text, str):
            raise NotAGrade(f"gave {_shown(text)} as the {key}, which must be text")
        # A half of a surrogate pair could not be written to a log.
        reply[key] = text[:LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8")
    return reply


def _score(value: Any) -> float | bool:
    if not isinstance(value, (bool, int, float)) and hasattr(value, "item"):
        value = value.item()  # a scalar of NumPy or PyTorch
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1:
        return float(value)
    raise NotAGrade(f"gave {_shown(value)}, which is neither true or false nor a number in 0..1")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def reason_of(error: BaseException, settings: Mapping[str, Any]) -> str:
    """Why a judge failed, as "rules.py, line 3: ZeroDivisionError: division by zero".

    Args:
        settings: the worker's; `file` is the user's file, whose line is named.
    """
    if isinstance(error, MemoryError):
        told = f"out of memory (grading.memory_gb allows {settings['memory'] / 2**30:g})"
    elif isinstance(error, NotAGrade):
        told = str(error)
    else:
        lines = str(error).strip().splitlines()
        told = type(error).__name__ + (f": {lines[0][:200]}" if lines else "")
    place = _place(error, settings.get("file"))
    return f"{place}: {told}" if place else told


def _place(error: BaseException, file: str | None) -> str:
    """The innermost line of the user's file that an error passed through; empty without one."""
    if file is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file and frame.lineno]
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
        lines.append(error.lineno)
    return f"{Path(file).name}, line {lines[-1]}" if lines else Path(file).name
