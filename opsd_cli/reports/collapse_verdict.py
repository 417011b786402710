"""The verdict below a run's collapse metrics: a sentence, and a table with every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from opsd_cli.formatting import numbered, share
from opsd_cli.reports.page import table
from opsd_cli.training.collapse_changes import (
    ACCURACY_THRESHOLD,
    FEWEST_STEPS,
    Change,
    CollapseMetric,
    Verdict,
    accuracy_change,
    collapse_changes,
    judge,
    quarter,
)

Accuracy = tuple[str, float, float] | None
HEADS = ("", "first quarter", "last quarter", "change", "threshold", "crossed", "in a collapse")


def collapse_verdict(
    metrics: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]
) -> str:
    """HTML: whether a run looks like a collapse, which thresholds were crossed, and every value.

    Args:
        metrics: rows of `metrics.jsonl`, in order of step.
        evaluations: rows of `evaluations.jsonl`.
    """
    changes = collapse_changes(metrics)
    if not changes:
        verb = "is" if len(metrics) == 1 else "are"
        few = f"{numbered(len(metrics), 'step')} {verb} too few, {FEWEST_STEPS} are needed"
        none = "no step has these metrics"
        return f"<p>No verdict: {few if len(metrics) < FEWEST_STEPS else none}.</p>"
    accuracy = accuracy_change(evaluations)
    graded = all(row["accuracy"] is not None for row in evaluations)
    rows = [_accuracy_row(accuracy)] if accuracy is not None else []
    rows += [_row(change) for change in changes]
    return (
        f"<p><b>Verdict:</b> "
        f"{escape(_sentence(changes, accuracy, graded) + _doubt(evaluations, accuracy))}"
        "</p>"
        f"<p>{escape(_crossed(changes, metrics))}</p>"
        f"{table(HEADS, rows)}"
        "<p class=dim>Means over a quarter of the steps; of accuracy, the first and the last "
        "measurement. The thresholds are fixed round numbers, fitted to no data. A crossed "
        "threshold is a reason to read the rollouts; it does not prove a collapse.</p>"
    )


def _sentence(changes: Sequence[Change], accuracy: Accuracy, graded: bool) -> str:
    names = _listed([c.metric.name.partition(",")[0] for c in changes if c.as_in_collapse])
    moved = f"{names} moved as in a collapse"
    said = "the accuracy was not measured twice" if graded else "nothing is graded"
    if accuracy is not None:
        split, first, last = accuracy
        change = f"{'fell' if last < first else 'rose'} from {share(first)} to {share(last)}"
        said = f"{split} accuracy {change if first != last else f'stayed at {share(first)}'}"
    verdict = judge(changes, accuracy)
    if verdict is Verdict.COLLAPSE:
        return f"signs of collapse: {said}, and {moved}."
    if verdict is Verdict.WORSE:
        return f"worse, without the signs of a collapse: {said}; no metric moved as in a collapse."
    if verdict is Verdict.UNKNOWN:
        return f"undecided: {moved}, but {said}."
    if not names:
        return f"no sign of collapse: {said}; no metric moved as in a collapse."
    return (
        f"no sign of collapse: {said}. {moved[0].upper()}{moved[1:]} too, but that also happens "
        "when a model becomes sure of right answers."
    )


def _doubt(evaluations: Sequence[dict[str, Any]], accuracy: Accuracy) -> str:
    """That the change of the accuracy can be chance, where both measurements' intervals overlap."""
    if accuracy is None or accuracy[1] == accuracy[2]:
        return ""
    of_split = [row for row in evaluations if row["split"] == accuracy[0]]
    first, last = (
        chosen(of_split, key=lambda row: row["step"])["accuracy"] for chosen in (min, max)
    )
    if not {"low", "high"} <= first.keys() & last.keys():
        return ""
    apart = first["high"] < last["low"] or last["high"] < first["low"]
    return "" if apart else " Both accuracies have intervals that overlap: it may be chance."


def _crossed(changes: Sequence[Change], metrics: Sequence[dict[str, Any]]) -> str:
    size = quarter(len(metrics))
    steps = [row["step"] for row in metrics]
    between = (
        f"between the first quarter of the steps ({_range(steps[:size])}) and the last "
        f"({_range(steps[-size:])})"
    )
    moved = [change for change in changes if change.moved]
    if not moved:
        return f"No metric crossed its threshold {between}."
    named = "; ".join(
        f"{c.metric.name}: {_value(c.metric, c.first)} to {_value(c.metric, c.last)} "
        f"({_size(c.metric, c.size)}, threshold {_threshold(c.metric)})"
        for c in moved
    )
    return f"Thresholds crossed {between}: {len(moved)} of {len(changes)}. {named}."


def _accuracy_row(accuracy: tuple[str, float, float]) -> tuple[str, ...]:
    split, first, last = accuracy
    return (
        f"{split} accuracy",
        share(first),
        share(last),
        f"{100 * (last - first):+.1f} points",
        f"{100 * ACCURACY_THRESHOLD:.1f} points",
        _word(abs(last - first) > ACCURACY_THRESHOLD, last > first),
        "falls",
    )


def _row(change: Change) -> tuple[str, ...]:
    metric = change.metric
    return (
        metric.name,
        _value(metric, change.first),
        _value(metric, change.last),
        _size(metric, change.size),
        _threshold(metric),
        _word(change.moved, change.size > 0),
        "rises" if metric.collapse > 0 else "falls",
    )


def _word(moved: bool, up: bool) -> str:
    return f"yes, {'up' if up else 'down'}" if moved else "no"


def _listed(names: Sequence[str]) -> str:
    *most, last = names or ("",)
    return f"{', '.join(most)} and {last}" if most else last


def _range(steps: Sequence[int]) -> str:
    return f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"


def _value(metric: CollapseMetric, value: float) -> str:
    return share(value) if metric.is_share else f"{value:.3g}"


def _threshold(metric: CollapseMetric) -> str:
    return _size(metric, metric.threshold).lstrip("+")


def _size(metric: CollapseMetric, size: float) -> str:
    if metric.relative:
        return "from 0" if size == float("inf") else f"{size:+.0%}"
    return f"{100 * size:+.1f} points" if metric.is_share else f"{size:+.2f}"
