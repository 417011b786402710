"""Learning methods: which rollouts to ask for, and what to learn from them.

All methods share the sampler, the grader, the prompts, the optimiser, the ledger and the evaluator;
a method is one small file that turns a step's graded rollouts into loss batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from backends.interface import LossBatch, Policy, Rollout
from opsd_cli.config.schema import Config
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.token_ledger import TokenLedger


@dataclass(frozen=True)
class GradedRollout:
    """A training rollout with its problem, its text and whether it was right.

    `importance`, where it is not empty, weighs each token for its having been drawn by another
    engine or by older weights.
    """

    rollout: Rollout
    problem: Problem
    text: str
    correct: bool
    importance: tuple[float, ...] = ()

    def weighed(self, advantages: Sequence[float]) -> tuple[float, ...]:
        """One number a token, times its importance."""
        if not self.importance:
            return tuple(advantages)
        return tuple(a * w for a, w in zip(advantages, self.importance, strict=True))


@dataclass(frozen=True)
class LossPlan:
    """What one step learns.

    Attributes:
        batches: an optimiser step is taken after each; none where there is nothing to learn.
        spent: tokens of forward passes that the method itself asked for.
        metrics: numbers of the method's own for `metrics.jsonl`.
    """

    batches: tuple[LossBatch, ...]
    spent: TokenLedger = field(default_factory=TokenLedger)
    metrics: dict[str, float] = field(default_factory=dict)


class Method(Protocol):
    """What the training loop asks of a method."""

    name: str

    @property
    def needs_teacher(self) -> bool:
        """Whether it learns from the privileged teacher, so that the preflight applies."""

    def rollouts_per_question(self) -> int:
        """How many completions of each question a step draws; 0 for off-policy methods."""

    def resampling_rounds(self) -> int:
        """How often a step may replace questions whose rollouts teach nothing."""

    def has_signal(self, group: Sequence[GradedRollout]) -> bool:
        """Whether there is anything to learn from one question's rollouts."""

    def build_loss(
        self,
        problems: Sequence[Problem],
        rollouts: Sequence[GradedRollout],
        contexts: PromptBuilder,
        policy: Policy,
        step: int = 1,
    ) -> LossPlan:
        """What to learn from a step's questions and their rollouts, grouped by question; steps are
        counted from 1."""


def get(config: Config) -> Method:
    """The method that a config names."""
    if config.method == "grpo":
        from opsd_cli.methods.grpo import Grpo

        return Grpo(config)
    if config.method == "hybrid":
        from opsd_cli.methods.hybrid import Hybrid

        return Hybrid(config)
    if config.method == "sft":
        from opsd_cli.methods.sft import Sft

        return Sft(config)
    from opsd_cli.methods.opsd import Opsd

    return Opsd(config)


def groups_of(rollouts: Sequence[GradedRollout]) -> list[list[GradedRollout]]:
    """The rollouts of each question, in order."""
    return [list(group) for _, group in groupby(rollouts, key=lambda graded: graded.problem.key)]


def token_weights(lengths: Sequence[int], reduction: str) -> list[float]:
    """The weight of every token of each completion, so that all the weights sum to one.

    `tokens` is the mean over all tokens; `sequences` the mean over a completion's tokens, then
    over completions. Where every completion is empty nothing has a weight.
    """
    total = sum(lengths)
    if not total:
        return [0.0] * len(lengths)
    if reduction == "tokens":
        return [1 / total] * len(lengths)
    return [1 / (max(1, length) * len(lengths)) for length in lengths]
