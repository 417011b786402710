r"""Data-quality checks on rows that are used in any case: counts, each with a first example.

No check here excludes a row: whether an answer is wrong is for the owner of the data to decide, and
a benchmark of 30 problems keeps 30. Only certain faults are reported. An answer contradicts its
solution if both are plain numbers, or both multiple-choice letters, and differ. `\sqrt{4}` against
2 would need a grader, and `B` against 5 cannot be decided.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from opsd_cli.typed_settings import data_check

#: In characters; longer numbers are not compared by value.
_MAX_NUMBER_LENGTH = 60
_NUMBER = re.compile(r"[-+]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d+)?")
_FRACTION = re.compile(r"([-+]?)(?:\\[dt]?frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))")
_LETTER = re.compile(r"(?:\\text(?:bf)?\{)?\(?([A-H])\)?\}?")
#: What a backslash before f, b, v or a becomes where LaTeX was read as an escape sequence.
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MAX_QUOTE_LENGTH = 40
#: Affected rows that are described; the others are counted.
MOST_DESCRIBED = 10


@dataclass(frozen=True)
class Anomaly:
    """Number of affected rows, and an example: "row 1 has '5', its solution '6'".

    Attributes:
        described: the first rows, an example each, at most `MOST_DESCRIBED`.
    """

    count: int
    first: str
    described: tuple[str, ...] = field(default=(), compare=False)

    def with_row(self, example: str) -> Anomaly:
        """The same with one more row; the first examples are kept."""
        described = self.described
        if len(described) < MOST_DESCRIBED:
            described = (*described, example)
        return Anomaly(self.count + 1, self.first or example, described)


NONE = Anomaly(0, "")


def differ(one: str, other: str) -> bool:
    """True if both answers are numbers, or both choice letters, and they differ."""
    for known in (_number, _choice_letter):
        first, second = known(one), known(other)
        if first is not None and second is not None:
            return first != second
    return False


def has_control(text: str) -> bool:
    r"""True if a text holds control characters, such as the form feed left of `\frac`."""
    return _CONTROL.search(text) is not None


def quoted(text: str) -> str:
    """A text in quotes, shortened, for use as an example in a message."""
    return repr(text if len(text) <= _MAX_QUOTE_LENGTH else text[: _MAX_QUOTE_LENGTH - 1] + "…")


def how_to_list(source: str) -> str:
    """How a user lists the rows of a set that such faults are in."""
    return f"To list such rows: {data_check(source)}"


def _bare(text: str) -> str:
    return text.strip().strip("$").strip()


def _number(text: str) -> Fraction | None:
    text = _bare(text)
    if len(text) > _MAX_NUMBER_LENGTH:
        return None
    if _NUMBER.fullmatch(text) and text.isascii():
        return Fraction(text.replace(",", ""))
    match = _FRACTION.fullmatch(text)
    if match is None or not text.isascii():
        return None
    top, bottom = (int(match[i] or match[i + 2]) for i in (2, 3))
    return Fraction(-top if match[1] == "-" else top, bottom) if bottom else None


def _choice_letter(text: str) -> str | None:
    match = _LETTER.fullmatch(_bare(text))
    return match[1] if match else None
