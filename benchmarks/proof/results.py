"""A kit's results: what the children wrote, as one JSON object, written whenever it grows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.proof.recorder import DONE, FAILED

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
    """True if a section failed or a check does not hold; skipped and stopped ones have not."""
    sections = results["sections"].values()
    return any(
        section["state"].startswith(FAILED)
        or not all(check["holds"] for check in section["checks"])
        for section in sections
    )


def summary(section: dict[str, Any]) -> str:
    """A section's state in one line, with its checks."""
    checks = section["checks"]
    held = sum(check["holds"] for check in checks)
    said = f"{held} of {len(checks)} checks hold" if checks else ""
    state: str = section["state"]
    rows = "" if state != DONE else f"{len(section['rows'])} rows"
    return ", ".join(part for part in (state, rows, said) if part)
