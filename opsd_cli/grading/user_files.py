"""Files of the user's functions: what a name says, and what a file holds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def is_file(where: str) -> bool:
    """True if the part of a function's name before the colon names a file, and not a module."""
    return where.endswith(".py") or os.sep in where


def digest_of(name: str) -> str | None:
    """SHA-256 of the file of FILE.py:FUNCTION; None for a module's function or a missing file."""
    where = name.rpartition(":")[0]
    path = Path(where).expanduser()
    if not is_file(where) or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
