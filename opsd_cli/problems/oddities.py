r"""What is odd about rows that are used all the same, told once with the first example.

Nothing here leaves a row out: whether an answer is wrong is for its owner to say, and a benchmark
of 30 problems stays one of 30. Only what is certain is told. An answer contradicts its solution
where both are plain numbers, or letters of a choice, and differ; `\sqrt{4}` against 2 is for a
grader to say, and `B` against 5 nobody can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

#: A number longer than this is compared as text.
_LONGEST_NUMBER = 60
_NUMBER = re.compile(r"[-+]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d+)?")
_FRACTION = re.compile(r"([-+]?)(?:\\[dt]?frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))")
_LETTER = re.compile(r"(?:\\text(?:bf)?\{)?\(?([A-H])\)?\}?")
#: What a backslash before f, b, v or a becomes where a program took it for an escape.
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LONGEST_QUOTE = 40


@dataclass(frozen=True)
class Oddity:
    """How many rows have it, and the first of them: "row 7: '5', but its solution boxes '6'"."""

    count: int
    first: str

    def more(self, example: str) -> Oddity:
        """With one row more; the example is kept if it is the first."""
        return Oddity(self.count + 1, self.first or example)


NONE = Oddity(0, "")


def differ(one: str, other: str) -> bool:
    """Whether two answers are certainly not the same one."""
    for known in (_value, _letter):
        ours, theirs = known(one), known(other)
        if ours is not None and theirs is not None:
            return ours != theirs
    return False


def has_control(text: str) -> bool:
    r"""Whether a text holds control characters that no writer meant, as `\f` of `\frac`."""
    return _CONTROL.search(text) is not None


def quoted(text: str) -> str:
    """A text as an example in a sentence."""
    return repr(text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…")


def _bare(text: str) -> str:
    return text.strip().strip("$").strip()


def _value(text: str) -> Fraction | None:
    text = _bare(text)
    if len(text) > _LONGEST_NUMBER:
        return None
    if _NUMBER.fullmatch(text) and text.isascii():
        return Fraction(text.replace(",", ""))
    match = _FRACTION.fullmatch(text)
    if match is None or not text.isascii():
        return None
    top, bottom = (int(match[i] or match[i + 2]) for i in (2, 3))
    return Fraction(-top if match[1] == "-" else top, bottom) if bottom else None


def _letter(text: str) -> str | None:
    match = _LETTER.fullmatch(_bare(text))
    return match[1] if match else None
