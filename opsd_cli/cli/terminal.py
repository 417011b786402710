"""The console class of all commands: printed text cannot control the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from opsd_cli.printable import visible


class PlainConsole(Console):
    """A console without markup, emoji codes and highlighting, that prints control characters as
    escapes.

    Strings are escaped before Rich measures them, so that tables and wrapped lines keep their
    layout. Other renderables, such as `Text`, are escaped segment by segment; segments in which
    Rich itself moves the cursor are marked as control, and not changed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text == visible(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)
