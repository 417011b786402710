"""Whether the collapse metrics of a run moved between its first and its last steps.

A metric moved if the difference of its means over the first and the last quarter of the steps
exceeds its threshold. The thresholds are round numbers, fitted to no data. Movement is a reason to
read the rollouts, not a proof of collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Fewest steps that have a first and a last quarter.
FEWEST_STEPS = 4


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
