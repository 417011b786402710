"""What a method asks the policy about completions before it builds a loss batch, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.interface import (
    DivergenceItem,
    Policy,
    PolicyGradientBatch,
    PolicyGradientItem,
    Sampling,
)
from backends.rollout_engines import get_engine
from opsd_cli.config.schema import Config
from opsd_cli.losses.token_weights import WEIGHINGS, token_weights
from opsd_cli.methods.base import RunSizes
from opsd_cli.rollouts.types import GradedRollout, training_sampling
from opsd_cli.token_ledger import TokenLedger


def teacher_and_student_scores(
    items: Sequence[DivergenceItem], policy: Policy, config: Config, temperature: float
) -> tuple[list[np.ndarray], list[np.ndarray], TokenLedger]:
    """Log-probabilities of every completion's tokens under both prompts, and what they cost.

    Returns:
        The teacher's and the student's, float32 [N] an item, and the tokens read.
    """
    teacher, spent = _teacher_scores(items, policy, config, temperature)
    student = policy.score(
        [(item.student_prompt, item.completion) for item in items], sampling=Sampling(temperature)
    )
    return teacher, student, spent + TokenLedger(scored=_student_tokens(items))


@dataclass(frozen=True)
class WeighedTokens:
    """The token weights of some completions.

    Attributes:
        weights: [N] an item, mean 1; None where `divergence.weigh` is none.
        spent: tokens read for them.
        metrics: `token_weight_max`, the greatest weight of the step.
    """

    weights: list[np.ndarray] | None
    spent: TokenLedger
    metrics: dict[str, float]


def weighed_tokens(
    items: Sequence[DivergenceItem],
    rollouts: Sequence[GradedRollout],
    policy: Policy,
    config: Config,
    gaps: Sequence[np.ndarray] | None = None,
) -> WeighedTokens:
    """The token weights of `divergence.weigh`, under the weights before the step's first update.

    Args:
        items: the completions.
        rollouts: they come from these, in the same order.
        gaps: log p_T - log p_S of each item's tokens, [N] in nats, where they are known already.
    """
    section = config.divergence
    weighing, spent = WEIGHINGS[section.weigh], TokenLedger()
    if weighing.weights is None:
        return WeighedTokens(None, spent, {})
    nothing = [np.zeros(0)] * len(items)
    entropies: Sequence[np.ndarray] = nothing
    if weighing.reads == "entropy":
        entropies, spent = _student_entropies(items, policy, section.temperature)
    elif weighing.reads == "gap" and gaps is None:
        gaps, spent = _gaps(items, rollouts, policy, config)
    weights = [
        token_weights(section.weigh, section.weigh_by, len(item.completion), gap_N, entropy_N)
        for item, gap_N, entropy_N in zip(items, gaps or nothing, entropies, strict=True)
    ]
    found = [float(weights_N.max()) for weights_N in weights if len(weights_N)]
    return WeighedTokens(weights, spent, {"token_weight_max": max(found)} if found else {})


def student_scores(
    rollouts: Sequence[GradedRollout], policy: Policy, config: Config
) -> tuple[list[np.ndarray], TokenLedger]:
    """The student's log-probabilities of each rollout's tokens, [N] in nats, and their cost."""
    if _sampler_scores_are_the_students(config):
        return [graded.rollout.log_probs for graded in rollouts], TokenLedger()
    pairs = [(g.rollout.request.prompt_ids, g.rollout.completion_ids) for g in rollouts]
    scores = policy.score(pairs, sampling=Sampling(config.divergence.temperature))
    return scores, TokenLedger(scored=sum(len(prompt) + len(c) for prompt, c in pairs))


def tokens_read_for_scores(config: Config, sizes: RunSizes) -> TokenLedger:
    """The most tokens that `student_scores` reads in a run."""
    student = sizes.rollouts * sizes.student_sequence
    return TokenLedger(scored=0 if _sampler_scores_are_the_students(config) else student)


def tokens_read_to_weigh(config: Config, sizes: RunSizes) -> TokenLedger:
    """The most tokens that a run reads for its token weights alone."""
    reads = WEIGHINGS[config.divergence.weigh].reads
    student = sizes.rollouts * sizes.student_sequence
    if reads == "entropy":
        return TokenLedger(scored=student)
    if reads == "gap" and config.divergence.vocabulary == "full":
        return TokenLedger(
            teacher_scored=sizes.rollouts * sizes.teacher_sequence,
            scored=0 if _sampler_scores_are_the_students(config) else student,
        )
    return TokenLedger()


def _gaps(
    items: Sequence[DivergenceItem],
    rollouts: Sequence[GradedRollout],
    policy: Policy,
    config: Config,
) -> tuple[list[np.ndarray], TokenLedger]:
    """log p_T - log p_S of each item's tokens, at the divergence's temperature."""
    temperature = config.divergence.temperature
    if _sampler_scores_are_the_students(config):
        teacher, spent = _teacher_scores(items, policy, config, temperature)
        student = [graded.rollout.log_probs for graded in rollouts]
    else:
        teacher, student, spent = teacher_and_student_scores(items, policy, config, temperature)
    return [t - s for t, s in zip(teacher, student, strict=True)], spent


def _sampler_scores_are_the_students(config: Config) -> bool:
    """True if the sampler's log-probabilities are those of the student that the loss compares."""
    sampling = training_sampling(config)
    return (
        not get_engine(config.rollouts.engine).separate_from_trainer
        and not sampling.filters
        and sampling.temperature == config.divergence.temperature
    )


def _teacher_scores(
    items: Sequence[DivergenceItem], policy: Policy, config: Config, temperature: float
) -> tuple[list[np.ndarray], TokenLedger]:
    scores = policy.score(
        [(item.teacher_prompt, item.completion) for item in items],
        "teacher",
        config.teacher.acting,
        Sampling(temperature),
    )
    read = sum(len(item.teacher_prompt) + len(item.completion) for item in items)
    return scores, TokenLedger(teacher_scored=read)


def _student_entropies(
    items: Sequence[DivergenceItem], policy: Policy, temperature: float
) -> tuple[list[np.ndarray], TokenLedger]:
    """The student's entropy at each item's tokens, from a measurement without a gradient."""
    asked = tuple(
        PolicyGradientItem(item.student_prompt, item.completion, (0.0,) * len(item.completion))
        for item in items
    )
    report = policy.measure(PolicyGradientBatch(asked, temperature))
    entropies = [tokens.student_entropy for tokens in report.tokens]
    return entropies, TokenLedger(scored=_student_tokens(items))


def _student_tokens(items: Sequence[DivergenceItem]) -> int:
    return sum(len(item.student_prompt) + len(item.completion) for item in items)
