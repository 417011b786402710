"""Reading a JSON file that a kill, or a person, may have damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is missing, unreadable or holds something else.

    A file that the user names goes through a reader that says what is wrong with it; this one is
    for files of our own, which are written atomically.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
