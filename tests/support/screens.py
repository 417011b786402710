"""What a console shows, as text."""

from __future__ import annotations

import io

from rich.console import RenderableType

from opsd_cli.cli.terminal import PlainConsole


def drawn(renderable: RenderableType, width: int, height: int = 30) -> list[str]:
    """The lines of a renderable on a console of this width."""
    page = PlainConsole(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with page.capture() as caught:
        page.print(renderable)
    return [line.rstrip() for line in caught.get().splitlines()]
