"""Supervised distillation: next-token prediction on the reference solutions, off-policy.

The paper's third arm. The target is the reference solution, closed by the boxed answer where it
has no box of its own, and by the token that ends a turn; the prompt is the student's. Nothing is
sampled, so a run generates no tokens.
"""

from __future__ import annotations

from backends.interface import Policy, PolicyGradientBatch, PolicyGradientItem
from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.methods.base import LossPlan, Method, Needs, RunSizes, StepInputs
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import escape_control_tokens
from opsd_cli.token_ledger import TokenLedger


def target_text(problem: Problem) -> str:
    """The target text of a problem: its reference solution, with the answer in a box.

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


def supervised_batch(
    inputs: StepInputs, policy: Policy, config: Config, factor: float = 1.0
) -> PolicyGradientBatch | None:
    """Cross-entropy on the references of a step's questions.

    Args:
        factor: of every token's loss.

    Returns:
        None where every prompt fills the limit, so that nothing is left to learn.

    Raises:
        DataError: a problem has no reference solution.
    """
    tokenizer = inputs.builder.tokenizer
    prompts = [inputs.builder.student(problem).ids for problem in inputs.questions]
    end = tokenizer.end_of_turn
    targets = []
    for problem, prompt in zip(inputs.questions, prompts, strict=True):
        text = escape_control_tokens(target_text(problem), tokenizer)
        ids = (*tokenizer.encode(text), *(() if end is None else (end,)))
        limits = (policy.context_limit, config.sft.max_tokens)
        limit = min((limit for limit in limits if limit is not None), default=None)
        targets.append(ids if limit is None else ids[: max(0, limit - len(prompt))])
    weights = completion_weights([len(ids) for ids in targets], config.train.reduction)
    items = tuple(
        PolicyGradientItem(prompt, ids, (1.0,) * len(ids), factor * weight)
        for prompt, ids, weight in zip(prompts, targets, weights, strict=True)
        if ids  # a prompt that fills the limit leaves nothing to learn
    )
    return PolicyGradientBatch(items) if items else None


def supervised_tokens(config: Config, sizes: RunSizes) -> int:
    """The most tokens of the references of all steps, prompts included, read once."""
    sequence = sizes.student_prompt + sizes.reference
    sequence = min(sequence, max(sizes.student_prompt, config.sft.max_tokens or sequence))
    return config.train.steps * config.train.questions_per_step * sequence


class Sft(Method):
    """Cross-entropy on the reference solutions."""

    name = "sft"
    needs = Needs(solutions=True)

    def rollouts_per_question(self) -> int:
        return 0

    def build_loss(self, inputs: StepInputs, policy: Policy) -> LossPlan:
        batch = supervised_batch(inputs, policy, self._config)
        batches = () if batch is None else (batch,)
        return LossPlan(batches * self._config.train.passes)

    def tokens_read(self, sizes: RunSizes) -> TokenLedger:
        return TokenLedger(
            trained=supervised_tokens(self._config, sizes) * self._config.train.passes
        )
