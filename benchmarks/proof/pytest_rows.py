"""A pytest plugin that writes each test's outcome at once: a suite that is killed keeps its counts.

Loaded with `-p benchmarks.proof.pytest_rows`; the file is named by `OPSD_PROOF_OUTCOMES`.
"""

from __future__ import annotations

import json
import os
from typing import Any

VARIABLE = "OPSD_PROOF_OUTCOMES"


def pytest_runtest_logreport(report: Any) -> None:
    """Called by pytest for setup, call and teardown of a test."""
    # A test is passed in its call, skipped in its setup or call, and can fail in each.
    if not (report.when == "call" or report.skipped or report.failed):
        return
    line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
    if report.failed:
        line["reason"] = str(report.longreprtext).strip().splitlines()[-1][:200]
    with open(os.environ[VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
