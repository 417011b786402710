"""Changes of the collapse metrics between the first and the last quarter of the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory
from opsd_cli.training.collapse_changes import (
    COLLAPSE_METRICS,
    Verdict,
    accuracy_change,
    collapse_changes,
    judge,
)

EIGHT = [{"step": step} for step in range(1, 9)]


def rows(key: str, *values: float | None) -> list[dict[str, Any]]:
    return [{"step": n, key: value} for n, value in enumerate(values, 1) if value is not None]


def test_collapse_changes_are_means_over_quarters() -> None:
    (change,) = collapse_changes(rows("entropy", 1.0, 3.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.5, 1.5))
    assert (change.first, change.last) == (2.0, 1.0)
    assert change.size == -0.5 and change.moved and change.as_in_collapse


@pytest.mark.parametrize(
    ("key", "first", "last", "moved", "as_in_collapse"),
    [
        ("completion_tokens", 100.0, 75.0, False, False),
        ("completion_tokens", 100.0, 74.0, True, True),
        ("completion_tokens", 100.0, 126.0, True, False),
        ("entropy", 0.0, 0.1, True, False),
        ("entropy", 0.0, 0.0, False, False),
        ("hedges_per_100_words", 2.0, 0.5, True, True),
        ("hedges_per_100_words", 0.5, 0.0, False, False),
        ("copied", 0.0, 0.2, True, True),
        ("truncated", 0.5, 0.25, True, False),
        ("truncated", 0.5, 0.5625, False, False),
        ("clipped", 0.0, 0.5, True, True),
    ],
)
def test_collapse_changes_against_their_thresholds(
    key: str, first: float, last: float, moved: bool, as_in_collapse: bool
) -> None:
    (change,) = collapse_changes(rows(key, first, 1.0, 1.0, last))
    assert (change.moved, change.as_in_collapse) == (moved, as_in_collapse)


def test_collapse_changes_need_a_quarter_at_both_ends() -> None:
    assert collapse_changes(rows("entropy", 1.0, 1.0, 1.0)) == []
    assert collapse_changes([]) == []
    assert collapse_changes(EIGHT) == []
    assert collapse_changes([{"step": 1, "entropy": 1.0}, *EIGHT[1:]]) == []


def test_collapse_changes_are_of_metrics_that_a_run_writes(finished_run: Path) -> None:
    changes = collapse_changes(list(read_rows(finished_run / run_directory.METRICS)))
    assert [change.metric for change in changes] == list(COLLAPSE_METRICS)


FALLING, RISING = (1.0, 1.0, 0.5, 0.5), (1.0, 1.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("entropy", "length", "accuracy", "verdict"),
    [
        (FALLING, FALLING, (0.5, 0.9), Verdict.NO_COLLAPSE),
        (FALLING, FALLING, (0.5, 0.5), Verdict.COLLAPSE),
        (FALLING, RISING, (0.5, 0.5), Verdict.NO_COLLAPSE),
        (FALLING, RISING, (0.5, 0.4), Verdict.COLLAPSE),
        (RISING, RISING, (0.5, 0.4), Verdict.WORSE),
        (RISING, RISING, None, Verdict.NO_COLLAPSE),
        (FALLING, RISING, None, Verdict.UNKNOWN),
    ],
)
def test_collapse_verdict_needs_the_accuracy(
    entropy: tuple[float, ...],
    length: tuple[float, ...],
    accuracy: tuple[float, float] | None,
    verdict: Verdict,
) -> None:
    metrics = [
        {"step": step, "entropy": nats, "completion_tokens": 100 * tokens}
        for step, (nats, tokens) in enumerate(zip(entropy, length, strict=True), 1)
    ]
    evaluations = [
        {"split": "validation", "step": step, "accuracy": {"value": value}}
        for step, value in zip((0, 4), accuracy or (), strict=False)
    ]
    assert judge(collapse_changes(metrics), accuracy_change(evaluations)) is verdict
