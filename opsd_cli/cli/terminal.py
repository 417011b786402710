"""The one console class that commands print with: nothing printed is ever obeyed as a command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from opsd_cli.printable import visible


class PlainConsole(Console):
    """A console to which every string is text: no markup, no emoji codes, no highlighting, and
    control characters by their escapes.

    Strings are changed before they are measured, so that tables and wrapped lines stay in shape.
    What reaches the console in another way, as a `Text` say, is changed in its segments; those in
    which Rich itself moves the cursor are marked as control and left alone.
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
