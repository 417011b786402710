"""What a section's process writes: one JSON object a line, at once, so that a kill loses nothing.

The lines are `{"row": {...}}`, `{"check": {"what": ..., "holds": ...}}`, `{"note": "..."}` and, at
the end, `{"end": STATE}`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.proof.sections import package_name

#: How a state begins. What is stopped or skipped is no fault of the code; what failed is.
DONE, SKIPPED, STOPPED, FAILED = "done", "skipped", "stopped", "failed"
#: Row key under which a row that could not be measured says why.
STATE = "state"


class Skip(Exception):
    """Raised where something cannot be measured here, with the reason in one line."""


class Recorder:
    """Writes a section's results.

    Args:
        path: the file.
        tiny: whether the section's smallest form is asked for.
        seconds: the section's time budget.
    """

    def __init__(self, path: Path, tiny: bool, seconds: float) -> None:
        self.tiny = tiny
        self._path = path
        self._deadline = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Until the process is ended."""
        return self._deadline - time.monotonic()

    def row(self, **values: Any) -> None:
        """One row of the section's table; a key's ending is its unit, as in `time_ms`."""
        self._write({"row": {key: _plain(value) for key, value in values.items()}})

    def check(self, what: str, holds: bool, **values: Any) -> None:
        """A statement that must hold; the kit fails if it does not."""
        plain = {key: _plain(value) for key, value in values.items()}
        self._write({"check": {"what": what, "holds": bool(holds), **plain}})

    def note(self, text: str) -> None:
        """A line for people below the table."""
        self._write({"note": text})

    def end(self, state: str) -> None:
        """The section's state: "done", or "skipped: WHY", "stopped: WHY", "failed: WHY"."""
        self._write({"end": state})

    @contextlib.contextmanager
    def attempt(self, **names: Any) -> Iterator[dict[str, Any]]:
        """Measure one row: fill the yielded dictionary. What cannot be measured is said in it."""
        row: dict[str, Any] = {}
        try:
            yield row
        except (Exception, SystemExit) as error:
            row = {STATE: reason(error)}
        self.row(**names, **row)
        # What a failed row held must not be in the next one's peak.
        gc.collect()

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def reason(error: BaseException) -> str:
    """A row's or a section's state after an exception, in one line."""
    if isinstance(error, Skip):
        return f"{SKIPPED}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{SKIPPED}: {package_name(error.name.partition('.')[0])} is not installed"
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if "OutOfMemory" in type(error).__name__ or "out of memory" in text:
        return f"{STOPPED}: memory ran out"
    return f"{FAILED}: {type(error).__name__}: {text}"[:200]


def _plain(value: Any) -> Any:
    """A value for JSON, which has no NaN and no NumPy numbers."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
