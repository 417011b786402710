"""Supervised distillation: next-token prediction on the reference solutions, off-policy.

The paper's third arm. The target is the reference solution, closed by the boxed answer where it
has no box of its own, and by the token that ends a turn; the prompt is the student's. Nothing is
sampled, so a run generates no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.interface import Policy, PolicyGradientBatch, PolicyGradientItem
from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.methods import GradedRollout, LossPlan, token_weights
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import escape_control_tokens


def target_text(problem: Problem) -> str:
    """What the model is taught to write.

    Raises:
        DataError: the problem has no reference solution.
    """
    if problem.solution is None:
        raise DataError(
            f"problem {problem.id!r} has no reference solution to learn from",
            "name its column with --set data.columns.solution=COLUMN",
        )
    if "\\boxed" in problem.solution or problem.answer is None:
        return problem.solution
    return f"{problem.solution}\n\\boxed{{{problem.answer}}}"


class Sft:
    """Cross-entropy on the reference solutions."""

    name = "sft"
    needs_teacher = False

    def __init__(self, config: Config) -> None:
        self._config = config

    def rollouts_per_question(self) -> int:
        return 0

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
        tokenizer = contexts.tokenizer
        prompts = [contexts.student(problem).ids for problem in problems]
        end = tokenizer.end_of_turn
        targets = []
        for problem, prompt in zip(problems, prompts, strict=True):
            text = escape_control_tokens(target_text(problem), tokenizer)
            ids = (*tokenizer.encode(text), *(() if end is None else (end,)))
            limits = (policy.context_limit, self._config.sft.max_tokens)
            limit = min((limit for limit in limits if limit is not None), default=None)
            targets.append(ids if limit is None else ids[: max(0, limit - len(prompt))])
        weights = token_weights([len(ids) for ids in targets], self._config.train.reduction)
        items = tuple(
            PolicyGradientItem(prompt, ids, (1.0,) * len(ids), weight)
            for prompt, ids, weight in zip(prompts, targets, weights, strict=True)
            if ids  # a prompt that fills the limit leaves nothing to learn
        )
        batches = (PolicyGradientBatch(items),) if items else ()
        return LossPlan(batches * self._config.train.passes)
