"""Group relative policy optimisation (GRPO, arXiv 2402.03300, equation 3), and its variants.

A completion's reward is 1 if it is graded right and 0 if not; its advantage is the reward less the
mean of its question's group, divided by the group's standard deviation (n - 1) plus 1e-4.

- Dr. GRPO (arXiv 2503.20783): `grpo.scale` "none" and `grpo.loss` "dr_grpo".
- DAPO (arXiv 2503.14476): `grpo.loss` "dapo", `grpo.clip_high` above `grpo.clip_low`, and
  `grpo.zero_variance` "resample".

A group whose rewards are all equal has no advantage and, without a KL term, no gradient: its
completions are left out of the forward passes but stay in every denominator, so the loss is that
of the whole batch for fewer trained tokens. With one pass over a step's rollouts the ratio to the
old policy is exactly 1, no clip can take hold, and the old log-probabilities are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.interface import Policy, PolicyGradientBatch, PolicyGradientItem, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.methods import GradedRollout, LossPlan, groups_of
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.token_ledger import TokenLedger

#: Added to the standard deviation; the value that TRL uses.
EPSILON = 1e-4
GROUP_SIZE = 8


def advantages(rewards: Sequence[float], scale: str) -> np.ndarray:
    """The advantage of each completion of one group, float64.

    Args:
        rewards: of a question's completions.
        scale: "group" divides by the group's standard deviation; "none" leaves the difference.
    """
    values = np.asarray(rewards, np.float64)
    centred = values - values.mean()
    if scale == "none" or len(values) < 2:
        return centred
    return centred / (values.std(ddof=1) + EPSILON)


def sequence_weights(lengths: Sequence[int], loss: str, longest: int) -> list[float]:
    """The weight of every token of each completion.

    Args:
        loss: "grpo" is the mean over a completion's tokens, then over completions; "dapo" the mean
            over all tokens; "dr_grpo" divides by the greatest length instead of the actual one.
        longest: `sampling.max_new_tokens`.
    """
    count = len(lengths)
    if loss == "dapo":
        return [1 / max(1, sum(lengths))] * count
    if loss == "dr_grpo":
        return [1 / (longest * count)] * count
    return [1 / (max(1, length) * count) for length in lengths]


def group_advantages(rollouts: Sequence[GradedRollout], scale: str) -> list[float]:
    """The advantage of each rollout, from its own question's group."""
    return [
        float(advantage)
        for group in groups_of(rollouts)
        for advantage in advantages([float(g.correct) for g in group], scale)
    ]


def policy_gradient_plan(
    rollouts: Sequence[GradedRollout],
    token_advantages: Sequence[Sequence[float]],
    config: Config,
    policy: Policy,
) -> tuple[tuple[PolicyGradientBatch, ...], TokenLedger]:
    """The batches of a step, given every token's advantage; and the tokens scored for them."""
    section = config.grpo
    temperature = config.sampling.temperature or 1.0
    lengths = [len(graded.rollout.completion_ids) for graded in rollouts]
    chosen = [
        row for row, values in enumerate(token_advantages) if section.kl > 0 or np.any(values)
    ]
    pairs = [
        (rollouts[row].rollout.request.prompt_ids, rollouts[row].rollout.completion_ids)
        for row in chosen
    ]
    updates = config.train.passes * section.minibatches
    plain = Sampling(temperature)
    old = policy.score(pairs, sampling=plain) if updates > 1 and pairs else None
    initial = policy.score(pairs, "teacher", "initial", plain) if section.kl > 0 and pairs else None
    read = sum(len(prompt) + len(completion) for prompt, completion in pairs)
    spent = TokenLedger(scored=read * ((old is not None) + (initial is not None)))

    # A minibatch is a set of whole groups; each is normalised by itself.
    names = list(dict.fromkeys(graded.problem.key for graded in rollouts))
    shares = np.array_split(np.arange(len(names)), section.minibatches)
    part_of = {names[i]: part for part, share in enumerate(shares) for i in share}
    parts = [part_of[graded.problem.key] for graded in rollouts]
    weights = [0.0] * len(rollouts)
    for part in set(parts):
        rows = [row for row, of in enumerate(parts) if of == part]
        found = sequence_weights(
            [lengths[row] for row in rows], section.loss, config.sampling.max_new_tokens
        )
        for row, weight in zip(rows, found, strict=True):
            weights[row] = weight
    batches = []
    for part in range(section.minibatches):
        items = tuple(
            PolicyGradientItem(
                prompt=pairs[place][0],
                completion=pairs[place][1],
                advantages=rollouts[row].weighed(token_advantages[row]),
                weight=weights[row],
                old_log_probs=() if old is None else tuple(old[place].tolist()),
                initial_log_probs=() if initial is None else tuple(initial[place].tolist()),
            )
            for place, row in enumerate(chosen)
            if parts[row] == part
        )
        if items:
            batches.append(
                PolicyGradientBatch(
                    items, temperature, section.clip_low, section.clip_high, section.kl
                )
            )
    return tuple(batches) * config.train.passes, spent


class Grpo:
    """Group-normalised advantages from the grader's verdicts."""

    name = "grpo"
    needs_teacher = False

    def __init__(self, config: Config) -> None:
        self._config = config

    def rollouts_per_question(self) -> int:
        return self._config.rollouts.per_question or GROUP_SIZE

    def resampling_rounds(self) -> int:
        section = self._config.grpo
        return section.resampling_rounds if section.zero_variance == "resample" else 0

    def has_signal(self, group: Sequence[GradedRollout]) -> bool:
        return len({graded.correct for graded in group}) > 1

    def build_loss(
        self,
        problems: Sequence[Problem],
        rollouts: Sequence[GradedRollout],
        contexts: PromptBuilder,
        policy: Policy,
        step: int = 1,
    ) -> LossPlan:
        each = group_advantages(rollouts, self._config.grpo.scale)
        tokens = [
            (advantage,) * len(graded.rollout.completion_ids)
            for advantage, graded in zip(each, rollouts, strict=True)
        ]
        batches, spent = policy_gradient_plan(rollouts, tokens, self._config, policy)
        flat = [not self.has_signal(group) for group in groups_of(rollouts)]
        return LossPlan(batches, spent, {"zero_variance_groups": float(np.mean(flat))})
