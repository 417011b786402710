"""Golden pairs graded in this process: the worker's code, without the worker.

The other tests of grading go through worker processes, which are killed when they are done. Here a
debugger can step through a comparison, and coverage sees it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from opsd_cli.grading import mathematics
from opsd_cli.grading.compare import compare
from opsd_cli.grading.pool import Pool

DATA = Path(__file__).parents[2] / "data"


class InProcess:
    """Stands for a pool of workers."""

    def statuses(self, pairs: Sequence[tuple[str, str]], deadline_seconds: float) -> list[str]:
        return [compare(gold, answer) for gold, answer in pairs]


@pytest.mark.parametrize("name", ["grading_pairs.jsonl", "grading_causes.jsonl"])
def test_compare_agrees_with_the_golden_pairs(name: str) -> None:
    rows = [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
    pairs = [(row["gold"], row["prediction"]) for row in rows]
    grades = mathematics._grade(cast(Pool, InProcess()), pairs, 1.0)
    assert len(rows) > 20
    assert [
        pair
        for pair, row, grade in zip(pairs, rows, grades, strict=True)
        if grade.correct != row["correct"]
    ] == []
