"""A control of opsd that has no teacher (`divergence.vocabulary: no_teacher`).

The fifth of a step's tokens to which the student gives the least probability gets the advantage -1
in a policy gradient, the others none; the loss is the mean over the chosen tokens. Ding and Zhang
(OPSA, arXiv 2608.31046) found that this fixed advantage reproduces much of what on-policy
distillation gains. If a run with a teacher is not better than this control, the gain is no evidence
that anything was distilled. The rule is that of their code in mode "fixed" (DripNowhy/
On-Policy-Self-Adaptation), except that a step's tokens are ranked together, not those of each
device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backends.interface import Policy, PolicyGradientBatch, PolicyGradientItem
from opsd_cli.config.schema import Config
from opsd_cli.methods.base import LossPlan
from opsd_cli.methods.scores import student_scores
from opsd_cli.rollouts.types import GradedRollout

#: Share of a step's tokens that are made less probable, and the advantage that does it.
SHARE, ADVANTAGE = 0.2, -1.0


def suppressed(log_probs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The advantages of a step's tokens, float64 [N] a completion: -1 for the least probable.

    At least one token is chosen; of equal ones the first.

    Args:
        log_probs: of each completion's tokens under the student, [N] in nats.
    """
    all_N = np.concatenate([np.asarray(own_N, np.float64) for own_N in log_probs])
    advantages_N = np.zeros(len(all_N))
    count = min(len(all_N), max(1, math.floor(SHARE * len(all_N))))
    advantages_N[np.argsort(all_N, kind="stable")[:count]] = ADVANTAGE
    return np.split(advantages_N, np.cumsum([len(own_N) for own_N in log_probs])[:-1])


def control_plan(rollouts: Sequence[GradedRollout], policy: Policy, config: Config) -> LossPlan:
    """The control's loss batch of a step.

    Args:
        rollouts: those that the step learns from, at least one.
    """
    scores, spent = student_scores(rollouts, policy, config)
    advantages = suppressed(scores)
    chosen = sum(int(np.count_nonzero(own_N)) for own_N in advantages)
    if not chosen:  # every completion is empty
        return LossPlan((), spent)
    items = tuple(
        PolicyGradientItem(
            graded.rollout.request.prompt_ids,
            graded.rollout.completion_ids,
            graded.with_importance(own_N.tolist()),
            1 / chosen,
        )
        for graded, own_N in zip(rollouts, advantages, strict=True)
    )
    return LossPlan((PolicyGradientBatch(items, config.divergence.temperature),), spent)
