"""A part of the repository's tests as a section: counts by file, and each failure by name."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT
from benchmarks.proof.pytest_rows import VARIABLE
from benchmarks.proof.recorder import Recorder
from opsd_cli.processes.child_processes import package_environment

#: Seconds that are kept back for writing the rows.
RESERVE = 3.0
#: Failures that are named.
NAMED = 20


def run(record: Recorder, arguments: Sequence[str], **environment: str) -> None:
    """Run pytest until it ends, or the section's time nearly does.

    Args:
        record: of the section.
        arguments: pytest's: paths and `-k`.
        environment: more variables.
    """
    with tempfile.TemporaryDirectory() as made:
        outcomes = Path(made) / "outcomes.jsonl"
        outcomes.touch()
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.proof.pytest_rows",
            "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestConfigWarning",
            # Without the options of pyproject.toml, which need plugins.
            "-o", "addopts=", *arguments,
        ]  # fmt: skip
        limit = max(1.0, record.seconds_left - RESERVE)
        ended, printed = waited(command, limit, {VARIABLE: str(outcomes), **environment})
        found = [json.loads(line) for line in outcomes.read_text(encoding="utf-8").splitlines()]
    report(record, found)
    if not ended:
        last = f"after {found[-1]['test']}" if found else "before the first test"
        record.note(f"stopped after {limit:.0f} s, {last}; the others did not run")
    elif not found:
        raise RuntimeError(next(reversed(printed.strip().splitlines()), "no test ran"))


def waited(command: Sequence[str], limit: float, more: dict[str, str]) -> tuple[bool, str]:
    """Whether a command ended in time, and what it printed."""
    environment = {**package_environment(), **more}
    environment.pop("PYTEST_ADDOPTS", None)
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, ""
    return True, done.stdout + done.stderr


def report(record: Recorder, found: Sequence[dict[str, Any]]) -> None:
    """A row a file, and a check that none failed."""
    files: dict[str, Counter[str]] = {}
    spent: Counter[str] = Counter()
    for test in found:
        name = test["test"].partition("::")[0]
        files.setdefault(name, Counter())[test["outcome"]] += 1
        spent[name] += test["seconds"]
    for name, counts in files.items():
        record.row(
            file=name.removeprefix("tests/"), passed=counts["passed"], failed=counts["failed"],
            skipped=counts["skipped"], time_s=spent[name],
        )  # fmt: skip
    failed = [test for test in found if test["outcome"] == "failed"]
    passed = sum(test["outcome"] == "passed" for test in found)
    record.check("every test that ran passed", not failed and passed > 0, passed=passed)
    for test in failed[:NAMED]:
        record.note(f"failed: {test['test']}: {test.get('reason', '')}")
