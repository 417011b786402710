"""The verdict below a run's collapse metrics: a sentence, and a table with every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from opsd_cli.formatting import share
from opsd_cli.training.collapse_changes import (
    FEWEST_STEPS,
    Change,
    CollapseMetric,
    collapse_changes,
    quarter,
)


def collapse_verdict(metrics: Sequence[dict[str, Any]]) -> str:
    """HTML: which metrics moved by more than their threshold, or that none did.

    Args:
        metrics: rows of `metrics.jsonl`, in order of step.
    """
    changes = collapse_changes(metrics)
    if not changes:
        few = f"{len(metrics)} steps are too few, {FEWEST_STEPS} are needed"
        none = "no step has these metrics"
        return f"<p>No verdict: {few if len(metrics) < FEWEST_STEPS else none}.</p>"
    rows = "".join(
        f"<tr><td>{escape(change.metric.name)}<td>{_value(change.metric, change.first)}"
        f"<td>{_value(change.metric, change.last)}<td>{_size(change.metric, change.size)}"
        f"<td>{_size(change.metric, change.metric.threshold).lstrip('+')}<td>{_word(change)}"
        for change in changes
    )
    return (
        f"<p><b>Verdict:</b> {escape(_sentence(changes, metrics))}</p>"
        "<div class=scroll><table><tr><th>metric<th>first quarter<th>last quarter<th>change"
        f"<th>threshold<th>moved{rows}</table></div>"
        "<p class=dim>Means over a quarter of the steps. The thresholds are fixed round numbers, "
        "fitted to no data. A metric that moved is a reason to read the rollouts below; it does "
        "not prove a collapse.</p>"
    )


def _sentence(changes: Sequence[Change], metrics: Sequence[dict[str, Any]]) -> str:
    size = quarter(len(metrics))
    steps = [row["step"] for row in metrics]
    between = (
        f"between the first quarter of the steps ({_range(steps[:size])}) and the last "
        f"({_range(steps[-size:])})"
    )
    moved = [change for change in changes if change.moved]
    if not moved:
        return f"none of the {len(changes)} metrics moved by more than its threshold {between}."
    named = "; ".join(
        f"{change.metric.name}: {_value(change.metric, change.first)} to "
        f"{_value(change.metric, change.last)} ({_direction(change)})"
        for change in moved
    )
    return (
        f"{len(moved)} of the {len(changes)} metrics moved by more than "
        f"{'its' if len(moved) == 1 else 'their'} threshold {between}. {named}."
    )


def _range(steps: Sequence[int]) -> str:
    return f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"


def _direction(change: Change) -> str:
    return "as in a collapse" if change.as_in_collapse else "away from a collapse"


def _word(change: Change) -> str:
    return f"yes, {_direction(change)}" if change.moved else "no"


def _value(metric: CollapseMetric, value: float) -> str:
    return share(value) if metric.is_share else f"{value:.3g}"


def _size(metric: CollapseMetric, size: float) -> str:
    if metric.relative:
        return "from 0" if size == float("inf") else f"{size:+.0%}"
    return f"{100 * size:+.1f} points" if metric.is_share else f"{size:+.2f}"
