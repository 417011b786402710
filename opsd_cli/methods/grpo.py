"""Group relative policy optimisation (GRPO, arXiv 2402.03300, equation 3), and its variants.

A completion's reward is its score: 1 if it is graded right and 0 if not, or the number in between
that the grader gives; its advantage is the reward less the
mean of its question's group, divided by the group's standard deviation (n - 1) plus 1e-4.

- Dr. GRPO (arXiv 2503.20783): `grpo.scale` "none" and `grpo.loss` "dr_grpo".
- DAPO (arXiv 2503.14476): `grpo.loss` "dapo", `grpo.clip_high` above `grpo.clip_low`, and
  `grpo.zero_variance` "resample".

A group whose rewards are all equal has no advantage and, without a KL term, no gradient: its
completions are left out of the forward passes but counted in every denominator, so that the loss is
that of the whole batch for fewer trained tokens. With one update a step the ratio to the old policy
is exactly 1, nothing is clipped, and the old log-probabilities are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from backends.interface import Policy, PolicyGradientBatch, PolicyGradientItem, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.losses.reduction import GRPO_LOSS_REDUCTIONS, completion_weights
from opsd_cli.methods.base import Headline, LossPlan, Method, Needs, RunSizes, StepInputs
from opsd_cli.rollouts.types import GradedRollout, groups_of
from opsd_cli.token_ledger import TokenLedger

#: Added to the standard deviation; the value that TRL uses.
EPSILON = 1e-4
#: Completions of each question where `rollouts.per_question` is not set.
GROUP_SIZE = 8


def advantages(rewards: Sequence[float], scale: str) -> np.ndarray:
    """The advantage of each completion of one group of K completions, float64 [K].

    Args:
        rewards: [K] of one question's completions.
        scale: "group" divides by the group's standard deviation; "none" only subtracts the mean.
    """
    rewards_K = np.asarray(rewards, np.float64)
    centred_K = rewards_K - rewards_K.mean()
    if scale == "none" or len(rewards_K) < 2:
        return centred_K
    return centred_K / (rewards_K.std(ddof=1) + EPSILON)


def group_advantages(rollouts: Sequence[GradedRollout], scale: str) -> list[float]:
    """The advantage of each rollout within its own question's group."""
    return [
        float(advantage)
        for group in groups_of(rollouts)
        for advantage in advantages([g.score for g in group], scale)
    ]


def policy_gradient_plan(
    rollouts: Sequence[GradedRollout],
    token_advantages: Sequence[Sequence[float]],
    config: Config,
    policy: Policy,
) -> tuple[tuple[PolicyGradientBatch, ...], TokenLedger]:
    """The policy-gradient batches of a step, and the tokens scored to build them.

    Args:
        rollouts: B rollouts, grouped by question.
        token_advantages: for each rollout, [N] advantages of its tokens.
    """
    section = config.grpo
    temperature = config.sampling.temperature or 1.0
    chosen = [
        row for row, values in enumerate(token_advantages) if section.kl > 0 or np.any(values)
    ]
    pairs = [
        (rollouts[row].rollout.request.prompt_ids, rollouts[row].rollout.completion_ids)
        for row in chosen
    ]
    plain = Sampling(temperature)
    updates = config.train.passes * section.minibatches
    old = policy.score(pairs, sampling=plain) if updates > 1 and pairs else None
    # The initial policy: a teacher's weights, but the student's prompt.
    initial = policy.score(pairs, "teacher", "initial", plain) if section.kl > 0 and pairs else None
    read = sum(len(prompt) + len(completion) for prompt, completion in pairs)
    spent = TokenLedger(scored=read * ((old is not None) + (initial is not None)))

    minibatch_of = _minibatch_of(rollouts, section.minibatches)
    weights = _weights(rollouts, minibatch_of, config)
    batches = []
    for minibatch in range(section.minibatches):
        items = tuple(
            PolicyGradientItem(
                prompt=pairs[place][0],
                completion=pairs[place][1],
                advantages=rollouts[row].with_importance(token_advantages[row]),
                weight=weights[row],
                old_log_probs=() if old is None else tuple(old[place].tolist()),
                initial_log_probs=() if initial is None else tuple(initial[place].tolist()),
            )
            for place, row in enumerate(chosen)
            if minibatch_of[row] == minibatch
        )
        if items:
            batches.append(
                PolicyGradientBatch(
                    items, temperature, section.clip_low, section.clip_high, section.kl
                )
            )
    return tuple(batches) * config.train.passes, spent


def _minibatch_of(rollouts: Sequence[GradedRollout], minibatches: int) -> list[int]:
    """The minibatch of each rollout; no group is split over two."""
    keys = list(dict.fromkeys(graded.problem.key for graded in rollouts))
    shares = np.array_split(np.arange(len(keys)), minibatches)
    of_key = {keys[i]: number for number, share in enumerate(shares) for i in share}
    return [of_key[graded.problem.key] for graded in rollouts]


def _weights(
    rollouts: Sequence[GradedRollout], minibatch_of: Sequence[int], config: Config
) -> list[float]:
    """The weight of each rollout's tokens; every minibatch is normalised by itself."""
    weights = [0.0] * len(rollouts)
    for minibatch in set(minibatch_of):
        rows = [row for row, of in enumerate(minibatch_of) if of == minibatch]
        found = completion_weights(
            [len(rollouts[row].rollout.completion_ids) for row in rows],
            GRPO_LOSS_REDUCTIONS[config.grpo.loss],
            config.sampling.max_new_tokens,
        )
        for row, weight in zip(rows, found, strict=True):
            weights[row] = weight
    return weights


class Grpo(Method):
    """Policy gradient with advantages normalised within each question's group."""

    name = "grpo"
    needs = Needs(rewards=True)
    headline: ClassVar[Headline | None] = "baseline"

    def rollouts_per_question(self) -> int:
        return self._config.rollouts.per_question or GROUP_SIZE

    def resampling_rounds(self) -> int:
        section = self._config.grpo
        return section.resampling_rounds if section.zero_variance == "resample" else 0

    def has_signal(self, group: Sequence[GradedRollout]) -> bool:
        return len({graded.score for graded in group}) > 1

    def updates_per_step(self) -> int:
        return self._config.train.passes * self._config.grpo.minibatches

    def build_loss(self, inputs: StepInputs, policy: Policy) -> LossPlan:
        each = group_advantages(inputs.rollouts, self._config.grpo.scale)
        tokens = [
            (advantage,) * len(graded.rollout.completion_ids)
            for advantage, graded in zip(each, inputs.rollouts, strict=True)
        ]
        batches, spent = policy_gradient_plan(inputs.rollouts, tokens, self._config, policy)
        return LossPlan(batches, spent, self.zero_variance_metrics(inputs.rollouts))

    def tokens_read(self, sizes: RunSizes) -> TokenLedger:
        student = sizes.rollouts * sizes.student_sequence
        scored = (self.updates_per_step() > 1) + (self._config.grpo.kl > 0)
        return TokenLedger(scored=student * scored, trained=student * self._config.train.passes)

    def zero_variance_metrics(self, rollouts: Sequence[GradedRollout]) -> dict[str, float]:
        """The metric `zero_variance_groups`: the share of groups whose rewards are all equal."""
        flat = [not self.has_signal(group) for group in groups_of(rollouts)]
        return {"zero_variance_groups": float(np.mean(flat))}
