"""A kit's results: what the children wrote, as one JSON object, written whenever it grows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.proof.recorder import DONE, FAILED, STATE

#: Of the JSON's form.
VERSION = 1
RUNNING = "running"


def read_rows(path: Path) -> dict[str, Any]:
    """Rows, checks, notes and state of one section, from its file; a torn last line is left out."""
    found: dict[str, Any] = {"rows": [], "checks": [], "notes": []}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            ((kind, value),) = json.loads(line).items()
        except ValueError:
            continue
        if kind == "end":
            found["state"] = value
        else:
            found[f"{kind}s"].append(value)
    return found


def write(path: Path, text: str) -> None:
    """Replace a file whole."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def has_failed(results: dict[str, Any]) -> bool:
    """True if a section or a row failed or a check does not hold; what was skipped or stopped for
    want of time or memory has not."""
    return any(
        section["state"].startswith(FAILED)
        or any(row.get(STATE, DONE).startswith(FAILED) for row in section["rows"])
        or not all(check["holds"] for check in section["checks"])
        for section in results["sections"].values()
    )


def summary(section: dict[str, Any]) -> str:
    """A section's state in one line, with its checks."""
    checks = section["checks"]
    held = sum(check["holds"] for check in checks)
    said = f"{held} of {len(checks)} checks hold" if checks else ""
    state: str = section["state"]
    measured = sum(STATE not in row for row in section["rows"])
    rows = f"{measured} of {len(section['rows'])} rows measured" if section["rows"] else ""
    return ", ".join(part for part in (state, rows, said) if part)
