"""On-policy self-distillation (OPSD, arXiv 2601.18734, equation of section 3).

    L = E_x E_{y ~ p_S(.|x)} [ 1/|y| sum_n D(p_T(.|x, y*, y_<n) || p_S(.|x, y_<n)) ]

The student's own completion is scored under both prompts; right and wrong completions teach alike,
so no grade enters the loss. Reduction `sequences` is the formula above; `tokens`, the paper's code,
divides by the step's token count instead, which weighs long completions more.

With `train.passes` above 1 the same completions are learnt from again after each update. They are
then no longer quite the current student's, but the divergence on them is exact all the same, and an
initial teacher need not read them again.

With `divergence.vocabulary` "sampled", only the sampled token is compared: its log-ratio of teacher
to student is an advantage, held constant, in a policy gradient. Its expectation is the gradient of
the reverse KL, estimated from one token where the full vocabulary gives it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    Policy,
    PolicyGradientBatch,
    PolicyGradientItem,
    Sampling,
)
from opsd_cli.config.schema import Config
from opsd_cli.methods import GradedRollout, LossPlan, token_weights
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import analyse
from opsd_cli.token_ledger import TokenLedger


class Opsd:
    """Divergence between the teacher and the student over the student's rollouts."""

    name = "opsd"
    needs_teacher = True

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spec = config.divergence.spec()

    def rollouts_per_question(self) -> int:
        return self._config.rollouts.per_question or 1

    def resampling_rounds(self) -> int:
        return 0

    def has_signal(self, group: Sequence[GradedRollout]) -> bool:
        return True

    def build_loss(
        self,
        problems: Sequence[Problem],
        rollouts: Sequence[GradedRollout],
        contexts: PromptBuilder,
        policy: Policy,
        step: int = 1,
    ) -> LossPlan:
        asked = {graded.problem.key: graded.rollout.request.seed for graded in rollouts}
        studied = analyse([g.problem for g in rollouts], contexts, policy, self._config, asked)
        lengths = [len(graded.rollout.completion_ids) for graded in rollouts]
        weights = token_weights(lengths, self._config.train.reduction)
        items = tuple(
            DivergenceItem(
                student_prompt=graded.rollout.request.prompt_ids,
                teacher_prompt=contexts.teacher(graded.problem).ids,
                completion=graded.rollout.completion_ids,
                weight=weight,
                token_weights=graded.importance,
            )
            for graded, weight in zip(rollouts, weights, strict=True)
        )
        if self._config.divergence.vocabulary == "sampled":
            return self._sampled(items, rollouts, policy, studied)
        passes = self._config.train.passes
        batch = DivergenceBatch(items, self._spec, self._config.teacher.weights, again=passes > 1)
        return LossPlan((batch,) * passes, studied)

    def _sampled(
        self,
        items: Sequence[DivergenceItem],
        rollouts: Sequence[GradedRollout],
        policy: Policy,
        studied: TokenLedger,
    ) -> LossPlan:
        temperature = self._spec.temperature
        teacher, student, spent = teacher_and_student_scores(
            items, policy, self._config, temperature
        )
        gaps = [t - s for t, s in zip(teacher, student, strict=True)]
        learnt = tuple(
            PolicyGradientItem(
                item.student_prompt, item.completion, graded.weighed(gap_N.tolist()), item.weight
            )
            for item, graded, gap_N in zip(items, rollouts, gaps, strict=True)
        )
        gap = sum(i.weight * float(gap_N.sum()) for i, gap_N in zip(items, gaps, strict=True))
        return LossPlan(
            (PolicyGradientBatch(learnt, temperature),),
            spent + studied,
            {"sampled_reverse_kl": -gap},
        )


def teacher_and_student_scores(
    items: Sequence[DivergenceItem], policy: Policy, config: Config, temperature: float
) -> tuple[list[np.ndarray], list[np.ndarray], TokenLedger]:
    """Log-probabilities of every completion's tokens under both prompts, and what they cost.

    Returns:
        The teacher's and the student's, float32 [N] an item, and the tokens read.
    """
    sampling = Sampling(temperature)
    teacher = policy.score(
        [(item.teacher_prompt, item.completion) for item in items],
        "teacher",
        config.teacher.weights,
        sampling,
    )
    student = policy.score(
        [(item.student_prompt, item.completion) for item in items], sampling=sampling
    )
    spent = TokenLedger(
        teacher_scored=sum(len(i.teacher_prompt) + len(i.completion) for i in items),
        scored=sum(len(i.student_prompt) + len(i.completion) for i in items),
    )
    return teacher, student, spent
