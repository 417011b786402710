"""On-policy self-distillation (OPSD, arXiv 2601.18734, equation of section 3).

    L = E_x E_{y ~ p_S(.|x)} [ 1/|y| sum_n D(p_T(.|x, y*, y_<n) || p_S(.|x, y_<n)) ]

The student's own completion is scored under both prompts; right and wrong completions teach alike,
so no grade enters the loss. Reduction `sequences` is the formula above; `tokens`, the paper's code,
divides by the step's token count instead, which weighs long completions more.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.interface import DivergenceBatch, DivergenceItem
from opsd_cli.config import Config
from opsd_cli.context import Contexts
from opsd_cli.methods import GradedRollout


class Opsd:
    """Divergence between the teacher and the student over the student's rollouts."""

    name = "opsd"

    def __init__(self, config: Config) -> None:
        self._spec = config.divergence.spec()
        self._teacher = config.teacher.weights
        self._per_question = config.rollouts.per_question
        self._by_tokens = config.train.reduction == "tokens"

    def rollouts_per_question(self) -> int:
        return self._per_question

    def batch(self, rollouts: Sequence[GradedRollout], contexts: Contexts) -> DivergenceBatch:
        total = sum(len(graded.rollout.completion_ids) for graded in rollouts)
        items = []
        for graded in rollouts:
            completion = graded.rollout.completion_ids
            weight = 1 / total if self._by_tokens else 1 / (len(completion) * len(rollouts))
            items.append(
                DivergenceItem(
                    student_prompt=graded.rollout.request.prompt_ids,
                    teacher_prompt=contexts.teacher(graded.problem).ids,
                    completion=completion,
                    weight=weight,
                )
            )
        return DivergenceBatch(tuple(items), self._spec, self._teacher)
