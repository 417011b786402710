"""Whether a text ends in a repetition of itself, as a small model's does that finds no end."""

from __future__ import annotations

import re

#: So many periods in a row, of so many characters together at least, are a repetition.
PERIODS, SHORTEST = 3, 60
#: Characters at the end of the text that are looked at.
LONGEST = 4000
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def ends_in_repetition(text: str) -> bool:
    """True if the end of a text is the same passage over and over.

    Numbers count as equal: "2*46 = 98. 2*98 = 198. 2*198 = 444." repeats itself. The last passage
    may be incomplete. Time is linear in the length of the text.
    """
    end = " ".join(_NUMBER.sub("0", text[-LONGEST:]).split())[::-1]
    # The failure function of Knuth, Morris and Pratt: the prefix of n + 1 characters of the
    # reversed text has the period n + 1 - borders[n].
    borders = [0] * len(end)
    for n in range(1, len(end)):
        border = borders[n - 1]
        while border and end[n] != end[border]:
            border = borders[border - 1]
        borders[n] = border + (end[n] == end[border])
        length = n + 1
        if length >= SHORTEST and length >= PERIODS * (length - borders[n]):
            return True
    return False
