"""Whether a run's collapse metrics moved between its first and its last steps, and the verdict.

A metric moved if the difference of its means over the first and the last quarter of the steps
exceeds its threshold. The thresholds are round numbers, fitted to no data. Movement is a reason to
read the rollouts, not a proof of collapse: entropy and length also fall in a model that becomes
sure of short right answers. So the verdict needs the accuracy too (`judge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

#: Fewest steps that have a first and a last quarter.
FEWEST_STEPS = 4
#: The greatest change of accuracy, as a share, that is no movement.
ACCURACY_THRESHOLD = 0.05


@dataclass(frozen=True)
class CollapseMetric:
    """A metric of `metrics.jsonl` and what counts as movement.

    Attributes:
        key: its key in the rows.
        name: its name for people.
        collapse: its direction in a collapse, 1 for a rise and -1 for a fall.
        threshold: the greatest change that is no movement.
        relative: whether the change is a share of the first quarter's mean.
        is_share: whether its values are shares, from 0 to 1.
    """

    key: str
    name: str
    collapse: int
    threshold: float
    relative: bool = False
    is_share: bool = False


COLLAPSE_METRICS = (
    CollapseMetric("completion_tokens", "completion length, tokens", -1, 0.25, relative=True),
    CollapseMetric("entropy", "entropy, nats a token", -1, 0.25, relative=True),
    CollapseMetric("hedges_per_100_words", "hedging words per 100 words", -1, 1.0),
    CollapseMetric("copied", "share copied from the reference", 1, 0.10, is_share=True),
    CollapseMetric("truncated", "share of completions cut off", 1, 0.10, is_share=True),
    CollapseMetric("clipped", "share of tokens clipped", 1, 0.10, is_share=True),
)


@dataclass(frozen=True)
class Change:
    """A metric's means over the first and the last quarter of the steps."""

    metric: CollapseMetric
    first: float
    last: float

    @property
    def size(self) -> float:
        """The change in the unit of the threshold; infinite for a relative change from 0."""
        difference = self.last - self.first
        if not self.metric.relative or not difference:
            return difference
        return difference / self.first if self.first else float("inf")

    @property
    def moved(self) -> bool:
        """True if the change exceeds the metric's threshold, in either direction."""
        return abs(self.size) > self.metric.threshold

    @property
    def as_in_collapse(self) -> bool:
        """True if the metric moved in the direction that it takes in a collapse."""
        return self.moved and self.size * self.metric.collapse > 0


def quarter(steps: int) -> int:
    """Steps in a quarter of a run, rounded down; 0 for fewer than `FEWEST_STEPS` steps."""
    return steps // 4


def collapse_changes(metrics: Sequence[dict[str, Any]]) -> list[Change]:
    """The change of each collapse metric that both quarters have.

    Args:
        metrics: rows of `metrics.jsonl`, in order of step.

    Returns:
        One entry a metric, in the order of `COLLAPSE_METRICS`; empty for too short a run.
    """
    size = quarter(len(metrics))
    changes = []
    for metric in COLLAPSE_METRICS:
        first, last = (
            [row[metric.key] for row in rows if row.get(metric.key) is not None]
            for rows in (metrics[:size], metrics[len(metrics) - size :])
        )
        if first and last:
            changes.append(Change(metric, sum(first) / len(first), sum(last) / len(last)))
    return changes


class Verdict(Enum):
    """What the metrics say together with the accuracy."""

    COLLAPSE = "collapse"
    """Accuracy fell and a metric moved as in a collapse, or it did not rise, and length and entropy
    both did."""
    NO_COLLAPSE = "no collapse"
    """Accuracy did not fall."""
    WORSE = "worse"
    """Accuracy fell, and no metric moved as in a collapse."""
    UNKNOWN = "unknown"
    """A metric moved as in a collapse, and there is no accuracy to judge by."""


def accuracy_change(evaluations: Sequence[dict[str, Any]]) -> tuple[str, float, float] | None:
    """The split, its first and its last accuracy; None where none was measured twice.

    Args:
        evaluations: rows of `evaluations.jsonl`; validation is taken before test.
    """
    for split in ("validation", "test"):
        of_split = (r for r in evaluations if r["split"] == split and r["accuracy"] is not None)
        rows = sorted(of_split, key=lambda r: r["step"])
        if len(rows) > 1:
            first, last = (float(row["accuracy"]["value"]) for row in (rows[0], rows[-1]))
            return split, first, last
    return None


def judge(changes: Sequence[Change], accuracy: tuple[str, float, float] | None) -> Verdict:
    """The verdict on a run's changes.

    Args:
        changes: as `collapse_changes` returns them.
        accuracy: as `accuracy_change` returns it.
    """
    moved = {change.metric.key for change in changes if change.as_in_collapse}
    if accuracy is None:
        return Verdict.UNKNOWN if moved else Verdict.NO_COLLAPSE
    _, first, last = accuracy
    if last < first - ACCURACY_THRESHOLD:
        return Verdict.COLLAPSE if moved else Verdict.WORSE
    both = {"completion_tokens", "entropy"} <= moved
    if both and last <= first + ACCURACY_THRESHOLD:
        return Verdict.COLLAPSE
    return Verdict.NO_COLLAPSE
