"""Digests of a run's write-once files, by which a later change to them is detected.

`.seals.json` maps a file's name to its SHA-256. The config is sealed when the run begins; the
result and the logs when it finishes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opsd_cli.files.atomic_write import sha256_of, write_atomic
from opsd_cli.files.json_files import read_object

SEALS = ".seals.json"


def seals_of(directory: Path) -> dict[str, Any]:
    """Digests by file name; empty if the run has none (one of an earlier version)."""
    return read_object(directory / SEALS) or {}


def seal(directory: Path, *names: str) -> None:
    """Record the digests of files that must not change any more."""
    seals = seals_of(directory) | {name: sha256_of(directory / name) for name in names}
    write_atomic(directory / SEALS, json.dumps(seals, indent=1) + "\n")


def unseal(directory: Path, *names: str) -> None:
    """Forget the digests of files that may change again."""
    seals = {name: digest for name, digest in seals_of(directory).items() if name not in names}
    write_atomic(directory / SEALS, json.dumps(seals, indent=1) + "\n")


def read_sealed(directory: Path, name: str) -> dict[str, Any] | None:
    """The JSON object in a sealed file; None if the file is missing, unsealed or changed."""
    found = read_object(directory / name)
    if found is None or seals_of(directory).get(name) != sha256_of(directory / name):
        return None
    return found
