"""Names that are too long for their column: broken between their parts, and never cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opsd_cli.printable import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

#: A part of a name with what may end a line: a space, or a mark as in "train.weigh_groups=a,b".
#: The point of a number is none.
_PART = re.compile(r"(?:[^ .,_=+/]|\.(?=\d))*(?:(?:[,_=+/]|\.(?!\d))+ *| +|$)")


class Name:
    """A name in a table's cell, such as the key of a config or the label of an arm.

    A line breaks after a space, else after one of . , _ = + /, and inside a part only where the
    column is narrower than the part.
    """

    def __init__(self, text: str) -> None:
        self._text = visible(text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        longest = max((cell_len(part.rstrip()) for part in _parts(self._text)), default=0)
        return Measurement(longest, cell_len(self._text)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        lines = folded(self._text, options.max_width)
        yield Text("\n".join(lines), no_wrap=True, overflow="fold")


def folded(text: str, width: int) -> list[str]:
    """The lines of a name in a column of this width; joined they have all of its characters."""
    from rich.cells import cell_len, chop_cells

    lines, line = list[str](), ""
    for word in re.findall(r"[^ ]+ *| +", text):  # a word goes to the next line whole, if it fits
        if line and cell_len(line + word.rstrip()) > width and cell_len(word.rstrip()) <= width:
            lines, line = [*lines, line], ""
        for part in _parts(word):
            if line and cell_len(line + part.rstrip()) > width:
                lines, line = [*lines, line], ""
            *full, rest = chop_cells(part.rstrip(), width) if part.rstrip() else [""]
            lines += full
            line += rest + part[len(part.rstrip()) :]
    return [each.rstrip() for each in (*lines, line)]


def _parts(text: str) -> list[str]:
    return [part for part in _PART.findall(text) if part]
