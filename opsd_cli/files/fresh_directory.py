"""A directory that no other process has made, for what is written without `--out`."""

from __future__ import annotations

from itertools import count
from pathlib import Path


def fresh_directory(root: Path, name: str) -> Path:
    """Make a directory of this name in `root`, or of the name with the next free number.

    Making it is what reserves it: two processes that start within one second get two directories.

    Raises:
        OSError: it cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    for number in count():
        directory = root / (f"{name}-{number}" if number else name)
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return directory
    raise AssertionError("count() does not end")
