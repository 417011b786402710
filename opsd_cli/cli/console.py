"""Where output goes: results on standard output, everything else on standard error.

With `--json` standard output carries exactly one JSON object. With `--quiet` notes are dropped and
results kept. Text of models and prompts is never parsed for markup: it is full of brackets.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Output:
    """The two consoles of a command."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    @cached_property
    def results(self) -> Console:
        """Standard output."""
        from rich.console import Console

        return Console(markup=False, highlight=False, soft_wrap=not sys.stdout.isatty())

    @cached_property
    def messages(self) -> Console:
        """Standard error."""
        from rich.console import Console

        return Console(stderr=True, markup=False, highlight=False)

    def show(self, *parts: RenderableType) -> None:
        """A result for people; goes to standard error under `--json`."""
        (self.messages if self.json else self.results).print(*parts)

    def note(self, text: str) -> None:
        """A sentence about what is going on."""
        if not self.quiet:
            self.messages.print(text, style="dim", soft_wrap=True)

    def warn(self, text: str) -> None:
        """A sentence the reader should not miss; `--quiet` keeps it."""
        self.messages.print(f"warning: {text}", style="yellow", soft_wrap=True)

    def object(self, value: Mapping[str, Any]) -> None:
        """The one JSON object of `--json`."""
        if self.json:
            print(json.dumps(_finite(value), ensure_ascii=False), flush=True)

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A spinner on a terminal; nothing elsewhere."""
        if self.quiet or not sys.stderr.isatty():
            yield
        else:
            with self.messages.status(what):
                yield


def _finite(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not have, as null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
