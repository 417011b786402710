"""What a user should know of a run's outcome that its accuracies do not show.

Computed from the run's logs, so that the end of a run, its result and its page say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opsd_cli.evaluation.held_out import HeldOut
from opsd_cli.formatting import share

#: From this share of a run's rollouts on, those without a reference are worth a remark.
MOSTLY = 0.5


def remarks(metrics: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about a run whose rollouts were truncated or skipped, or that learnt nothing.

    Args:
        metrics: rows of `metrics.jsonl`, one per step.
        evaluations: rows of `evaluations.jsonl`.

    Returns:
        Sentences without a capital and a full stop; empty if there is nothing to say.
    """
    found = (
        _all_truncated(metrics), _mostly_skipped(metrics), _no_gradient(metrics),
        _never_better(evaluations),
    )  # fmt: skip
    return [sentence for sentence in found if sentence is not None]


def _all_truncated(metrics: Sequence[dict[str, Any]]) -> str | None:
    rows = [row for row in metrics if row.get("truncated") is not None]
    if not rows or any(row["truncated"] < 1 for row in rows):
        return None
    longest = max(row.get("completion_tokens_max", 0) for row in rows)
    return (
        f"every rollout was cut off, the longest at {longest:,} tokens; raise "
        "sampling.max_new_tokens if answers should be finished"
    )


def _mostly_skipped(metrics: Sequence[dict[str, Any]]) -> str | None:
    """Said of a run that has lost most of its rollouts for want of a reference, right or wrong."""
    skipped = _mean(metrics, "rollouts_skipped")
    if skipped < MOSTLY:
        return None
    without_wrong = _mean(metrics, "contrast_missing")
    if without_wrong >= skipped / 2:
        return (
            f"{share(skipped)} of the rollouts were left out, and {share(without_wrong)} of those "
            "with a right reference had no wrong one (teacher.contrast): wrong_rollout takes a "
            "higher rollouts.per_question or harder problems, other_problem several questions a "
            "step"
        )
    if any("feedback_missing" in row for row in metrics):
        why = "the grader said nothing of them; train on harder problems"
    else:
        why = (
            "their questions had no other right rollout with another text; raise "
            "rollouts.per_question, train on easier problems"
        )
    return (
        f"the teacher had no reference for {share(skipped)} of the rollouts: "
        f"{why}, or give these rollouts another reference with teacher.without_reference"
    )


def _mean(metrics: Sequence[dict[str, Any]], key: str) -> float:
    """The mean of a metric over the steps that have it; 0 without one."""
    found = [float(row[key]) for row in metrics if key in row]
    return sum(found) / max(1, len(found))


def _no_gradient(metrics: Sequence[dict[str, Any]]) -> str | None:
    if not metrics or any(row.get("grad_norm", 1) for row in metrics):
        return None
    if metrics[-1]["ledger"].get("trained", 0):
        return "nothing was learnt: the gradient of every step was 0"
    flat = all(row.get("zero_variance_groups") == 1 for row in metrics)
    why = ", because the rollouts of each question were all right or all wrong" if flat else ""
    if all(row.get("learnt_share") == 0 for row in metrics):
        why = ", because train.learn_from left out every rollout by its grade"
    return f"nothing was learnt: no step had a loss batch{why}"


def _never_better(evaluations: Sequence[dict[str, Any]]) -> str | None:
    rows = [row for row in evaluations if row["split"] == "validation"]
    graded = all(row["accuracy"] is not None for row in rows)
    quality = {
        row["step"]: row["accuracy"]["value"] if graded else HeldOut.in_row(row).quality
        for row in rows
    }
    later = {step: value for step, value in quality.items() if step > 0 and value is not None}
    before = quality.get(0)
    if before is None or not later or max(later.values()) > before:
        return None
    step = max(later, key=later.__getitem__)
    if graded:
        what = f"validation accuracy was never above the {share(before)}"
        since = f"highest since: {share(later[step])}"
    elif any(row.get("divergence") for row in rows):
        what = f"validation divergence was never below the {-before:.4f} nats a token"
        since = f"lowest since: {-later[step]:.4f}"
    else:
        what = f"validation log-probability was never above the {before:.4f} nats a token"
        since = f"highest since: {later[step]:.4f}"
    return (
        f"{what} before the first step ({since} at step {step}): no step was better than the "
        "untrained model on validation, so sample, eval and export take step 0, and step "
        f"{max(later)} with --checkpoint last"
    )
