"""A training step's rollouts as plain data, and how they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np

from backends.interface import Rollout, RolloutRequest, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.seeds import derive_seed
from opsd_cli.token_ledger import TokenLedger

#: (source, id, sample index) of a rollout: `GradedRollout.key`.
RolloutKey = tuple[str, str, int]


@dataclass(frozen=True)
class GradedRollout:
    """A training rollout with its problem, its text and its grade.

    Attributes:
        rollout: a completion of N tokens.
        text: the completion without its end token.
        correct: whether the grader found the answer right; None where nothing is graded.
        importance: [N] importance weights of the tokens; empty where all are 1.
        score: the reward, in 0..1; by default 1.0 if correct, else 0.0.
        feedback: what the grader says of this completion.
        numeric: True if the grader gave the score as a number.
        ungraded: True if the grader failed on the completion, or ran out of time.
    """

    rollout: Rollout
    problem: Problem
    text: str
    correct: bool | None
    importance: tuple[float, ...] = ()
    score: float = None  # type: ignore[assignment]  # set below
    feedback: str | None = None
    numeric: bool = False
    ungraded: bool = False

    def __post_init__(self) -> None:
        if self.score is None:
            object.__setattr__(self, "score", float(bool(self.correct)))

    @property
    def key(self) -> RolloutKey:
        """(source, id, sample index): unique among the rollouts that a step learns from."""
        return (*self.problem.key, self.rollout.request.sample_index)

    def with_importance(self, advantages: Sequence[float]) -> tuple[float, ...]:
        """[N] per-token advantages, each times its token's importance weight."""
        if not self.importance:
            return tuple(advantages)
        return tuple(a * w for a, w in zip(advantages, self.importance, strict=True))


@dataclass(frozen=True)
class StepRollouts:
    """The rollouts of one step.

    Attributes:
        graded: the rollouts to learn from, grouped by question.
        replaced: rollouts of zero-variance groups that others replaced; they count in the ledger.
        metrics: numbers about the sampler for `metrics.jsonl`.
        spent: tokens of forward passes that compared sampler and trainer.
        seconds: wall-clock time of sampling and grading, resampling included; prefetched rollouts
            count their time in the background. None where they come from a checkpoint.
    """

    graded: tuple[GradedRollout, ...]
    replaced: tuple[GradedRollout, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    spent: TokenLedger = field(default_factory=TokenLedger)
    seconds: float | None = None

    @property
    def everything(self) -> tuple[GradedRollout, ...]:
        """All rollouts of the step, replaced ones included."""
        return self.graded + self.replaced

    @property
    def sampled(self) -> TokenLedger:
        """Tokens that sampling them took."""
        return sampled_tokens([graded.rollout for graded in self.everything])

    @property
    def reward(self) -> float | None:
        """Mean score of all rollouts: the share that is right, unless the grader gives numbers.

        None where there are no rollouts, or nothing is graded.
        """
        if not self.everything or any(graded.correct is None for graded in self.everything):
            return None
        return float(np.mean([graded.score for graded in self.everything]))


class GroupSampling(Protocol):
    """What sampling needs to know of a method; every `opsd_cli.methods.base.Method` provides it."""

    def rollouts_per_question(self) -> int:
        """Completions of each question in a step: the group size; 0 for off-policy methods."""

    def resampling_rounds(self) -> int:
        """How many times a step may replace the questions of zero-variance groups."""

    def has_signal(self, group: Sequence[GradedRollout]) -> bool:
        """False for a zero-variance group: one question's rollouts have no training signal."""


class StepRequests:
    """The rollout requests of a run's steps, derived from (seed, step, problem, sample) alone.

    Args:
        config: the run's seed.
        method: the group size.
        builder: the student's prompts.
    """

    def __init__(self, config: Config, method: GroupSampling, builder: PromptBuilder) -> None:
        self._seed = config.seed
        self._method = method
        self._builder = builder

    def of(self, questions: Sequence[Problem], step: int, attempt: int = 0) -> list[RolloutRequest]:
        """The requests of a step, grouped by question.

        Args:
            step: counted from 1.
            attempt: resampling round; 0 for the step's own questions.
        """
        return [
            RolloutRequest(
                problem_id=problem.id,
                sample_index=index,
                prompt_ids=self._builder.student(problem).ids,
                seed=derive_seed(self._seed, "rollout", step, *problem.key, index, attempt),
            )
            for problem in questions
            for index in range(self._method.rollouts_per_question())
        ]


def training_sampling(config: Config) -> Sampling:
    """The sampling settings of training rollouts."""
    return Sampling(**config.sampling.model_dump())


def groups_of(rollouts: Sequence[GradedRollout]) -> list[list[GradedRollout]]:
    """The rollouts of each question, in order."""
    return [list(group) for _, group in groupby(rollouts, key=lambda graded: graded.problem.key)]


def sampled_tokens(rollouts: Sequence[Rollout]) -> TokenLedger:
    """The ledger's entry for rollouts: tokens generated, prompt tokens read, completions."""
    return TokenLedger(
        generated=sum(len(rollout.completion_ids) for rollout in rollouts),
        prompt=sum(len(rollout.request.prompt_ids) for rollout in rollouts),
        rollouts=len(rollouts),
    )
