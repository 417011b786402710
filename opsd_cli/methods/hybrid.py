"""A verifiable reward combined with the teacher's signal (RLSD, arXiv 2604.03128).

The verifier decides the sign of a completion's advantage, as in GRPO; how far teacher and student
disagree about a token decides how much of it that token gets:

    A_n = A * ((1 - mix) + mix * w_n),   w_n = clip((p_T / p_S) ^ sign(A), 1 - spread, 1 + spread)

In a right completion, a token to which the teacher gives more probability than the student gets a
larger advantage; in a wrong one, a token to which the teacher gives less gets a more negative one.
No sign is ever reversed, so that a wrong teacher can only redistribute the reward; `mix` 0 is GRPO.
With `hybrid.decay_updates` the mix falls linearly to 0 over so many optimiser updates, as
published; from there on no teacher is asked.
"""

from __future__ import annotations

import numpy as np

from backends.interface import DivergenceItem, Policy
from opsd_cli.methods.base import LossPlan, Needs, RunSizes, StepInputs
from opsd_cli.methods.grpo import Grpo, group_advantages, policy_gradient_plan
from opsd_cli.methods.scores import teacher_and_student_scores
from opsd_cli.token_ledger import TokenLedger


def redistributed(
    advantage: float, gap_N: np.ndarray, mix: float, spread: float
) -> tuple[float, ...]:
    """One completion's advantage, token by token.

    Args:
        gap_N: log p_T - log p_S of each token.
        mix: 0 leaves the advantage as it is, 1 weighs it fully.
        spread: the greatest change of a token's weight, in (0, 1).
    """
    # exp() of a huge gap is inf, which the clip then bounds.
    with np.errstate(over="ignore"):
        ratio_N = np.exp(np.sign(advantage) * np.asarray(gap_N, np.float64))
    weight_N = np.clip(ratio_N, 1 - spread, 1 + spread)
    return tuple((advantage * ((1 - mix) + mix * weight_N)).tolist())


class Hybrid(Grpo):
    """GRPO whose advantages the teacher redistributes over a completion's tokens."""

    name = "hybrid"
    needs = Needs(teacher=True, rewards=True)
    headline = None

    def mix(self, step: int) -> float:
        """The teacher's share of the weighting at a step, counted from 1."""
        section = self._config.hybrid
        if section.decay_updates is None:
            return section.mix
        done = (step - 1) * self.updates_per_step()
        return section.mix * max(0.0, 1 - done / section.decay_updates)

    def steps_with_teacher(self) -> int:
        section, steps = self._config.hybrid, self._config.train.steps
        if section.mix == 0:
            return 0
        if section.decay_updates is None:
            return steps
        return min(steps, -(-section.decay_updates // self.updates_per_step()))

    def build_loss(self, inputs: StepInputs, policy: Policy) -> LossPlan:
        config, rollouts = self._config, inputs.rollouts
        each = group_advantages(rollouts, config.grpo.scale)
        mix = self.mix(inputs.step)
        # Without a verified sign there is nothing for the teacher to redistribute.
        signed = [row for row, advantage in enumerate(each) if advantage != 0 and mix > 0]
        prompts = inputs.analyst.of_rollouts([rollouts[row] for row in signed], rollouts)
        # A rollout without a reference keeps its advantage as the verifier gave it.
        taught = [(row, prompt) for row in signed if (prompt := prompts.of(rollouts[row]))]
        items = [
            DivergenceItem(
                rollouts[row].rollout.request.prompt_ids,
                prompt.ids,
                rollouts[row].rollout.completion_ids,
            )
            for row, prompt in taught
        ]
        temperature = config.sampling.temperature or 1.0
        teacher, student, scored = (
            teacher_and_student_scores(items, policy, config, temperature)
            if items
            else ([], [], TokenLedger())
        )
        tokens: list[tuple[float, ...]] = [
            (advantage,) * len(graded.rollout.completion_ids)
            for advantage, graded in zip(each, rollouts, strict=True)
        ]
        for (row, _), t, s in zip(taught, teacher, student, strict=True):
            tokens[row] = redistributed(each[row], t - s, mix, config.hybrid.spread)
        batches, spent = policy_gradient_plan(rollouts, tokens, config, policy)
        metrics = {**self.zero_variance_metrics(rollouts), "teacher_mix": mix, **prompts.metrics}
        return LossPlan(batches, prompts.spent + scored + spent, metrics)

    def tokens_read(self, sizes: RunSizes) -> TokenLedger:
        taught = sizes.rollouts // self._config.train.steps * self.steps_with_teacher()
        return super().tokens_read(sizes) + TokenLedger(
            teacher_scored=taught * sizes.teacher_sequence, scored=taught * sizes.student_sequence
        )
