"""Runs a proof kit in its tiny form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.proof import parent
from benchmarks.proof.sections import Kit

#: Far more than a tiny run takes: a test asserts values, never time.
MINUTES = "60"


def tiny_run(kit: Kit, sections: Sequence[str], out: Path, **environment: str) -> dict[str, Any]:
    """The kit's JSON, after a run that must end with 0."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        options = ("--minutes", MINUTES, "--only", ",".join(sections))
        code = parent.main(kit, ["--tiny", "--out", str(out), *options])
    results = out / f"{kit.name}.json"
    found: dict[str, Any] = json.loads(results.read_text())
    assert code == 0, (out / f"{kit.name}.md").read_text()
    return found
