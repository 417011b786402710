"""Weights of questions by the pass rate of their rollouts (`train.weigh_groups: pass_rate`).

A question of whose K rollouts a share p is right weighs sqrt(p (1 - p)), so that the questions that
the student can answer sometimes teach most (SC-SDPO, arXiv 2605.27765; its abstract has the
weight). The weights of a step are divided by their sum, so that the loss is a weighted mean; the
paper normalises by batch too, but its formula for that was not read. A question whose rollouts are
all right or all wrong weighs nothing: it is left out, and counted in `zero_variance_groups`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from opsd_cli.rollouts.types import GradedRollout, groups_of

#: The value of `train.weigh_groups` that weighs questions by their pass rate.
PASS_RATE = "pass_rate"


def group_weights(rollouts: Sequence[GradedRollout]) -> dict[tuple[str, str], float]:
    """The weight of each question, by its problem's key; 0 for a zero-variance group.

    Args:
        rollouts: all of a step, grouped by question.
    """
    weights = {}
    for group in groups_of(rollouts):
        rate = sum(bool(graded.correct) for graded in group) / len(group)
        weights[group[0].problem.key] = math.sqrt(rate * (1 - rate))
    return weights


def zero_variance_metric(weights: dict[tuple[str, str], float]) -> dict[str, float]:
    """The metric `zero_variance_groups`: the share of questions that weigh nothing."""
    return {"zero_variance_groups": float(np.mean([not w for w in weights.values()]))}


def weighed_completions(
    weights: Sequence[float], factors: Sequence[float], lengths: Sequence[int]
) -> list[float]:
    """The completions' weights times their questions', with the sum over all tokens kept.

    Args:
        weights: of each token of each of B completions (`completion_weights`).
        factors: the weight of each completion's question, at least one above 0.
        lengths: tokens of each completion.
    """
    before = sum(w * n for w, n in zip(weights, lengths, strict=True))
    products = [w * f for w, f in zip(weights, factors, strict=True)]
    after = sum(w * n for w, n in zip(products, lengths, strict=True))
    return [w * before / after if after else 0.0 for w in products]
