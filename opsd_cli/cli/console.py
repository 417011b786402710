"""The output of a command: results on standard output, everything else on standard error.

With `--json` standard output holds exactly one JSON object, and results for people go to standard
error: a pipe gets the object alone, and a terminal shows both. With `--quiet` notes are left out.
Control characters are printed as escapes: see `opsd_cli.printable`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.ticking import ticking
from opsd_cli.files.os_errors import naming
from opsd_cli.formatting import duration, json_safe
from opsd_cli.printable import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


#: Without a terminal, most seconds between two lines about work that is under way.
SILENT_SECONDS = 30.0


class Output:
    """The two consoles of a command; it receives `opsd_cli.tracking.listener.Messages`."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self._warned: set[str] = set()

    @cached_property
    def results(self) -> Console:
        """Standard output."""
        from opsd_cli.cli.terminal import PlainConsole

        return PlainConsole(soft_wrap=not sys.stdout.isatty())

    @cached_property
    def messages(self) -> Console:
        """Standard error."""
        from opsd_cli.cli.terminal import PlainConsole

        return PlainConsole(stderr=True)

    def show(self, *parts: RenderableType) -> None:
        """Print a result for people; with `--json`, on standard error."""
        console = self.shown_on
        if console.is_terminal or not all(isinstance(part, str) for part in parts):
            with naming(_stream(console)):
                console.print(*parts)
        else:
            self.exact(" ".join(map(str, parts)))

    def exact(self, text: str) -> None:
        """Print text with every space, tab and line break unchanged.

        Long lines are left to the terminal, so that they stay whole when they are copied.
        """
        console = self.shown_on
        with naming(_stream(console)):
            console.file.write(visible(text) + "\n")
            console.file.flush()

    @property
    def shown_on(self) -> Console:
        """The console of results for people."""
        return self.messages if self.json else self.results

    def note(self, text: str) -> None:
        """Print a sentence about the current activity, unless `--quiet` is given."""
        if not self.quiet:
            self.messages.print(text, style="dim", soft_wrap=not self.messages.is_terminal)

    def warn(self, text: str) -> None:
        """Print a warning, also with `--quiet`; the same text once only."""
        if text in self._warned:
            return
        self._warned.add(text)
        self.messages.print(
            f"warning: {text}", style="yellow", soft_wrap=not self.messages.is_terminal
        )

    def object(self, value: Mapping[str, Any]) -> None:
        """Print the JSON object of `--json`; nothing without the flag."""
        if self.json:
            text = visible_json(json.dumps(json_safe(value), ensure_ascii=False))
            try:
                text.encode(sys.stdout.encoding or "utf-8")
            except UnicodeEncodeError:  # standard output has another encoding
                text = json.dumps(json_safe(value))
            with naming(Path("standard output")):
                print(text, flush=True)

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Until the end of the block, show a spinner on a terminal; elsewhere, a line every
        `SILENT_SECONDS`."""
        if self.quiet:
            yield
        elif not sys.stderr.isatty():
            began = time.monotonic()

            def tell() -> None:
                self.note(f"{what}, {duration(time.monotonic() - began)}")

            with ticking(tell, SILENT_SECONDS):
                yield
        else:
            from rich.text import Text

            with self.messages.status(Text(visible(what))):
                yield


def _stream(console: Console) -> Path:
    """What to name in an error in writing to a console."""
    return Path("standard error" if console.stderr else "standard output")
