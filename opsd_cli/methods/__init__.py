"""Learning methods: which rollouts to ask for, and which loss batch to build from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from backends.interface import LossBatch, Rollout
from opsd_cli.config import Config
from opsd_cli.context import Contexts
from opsd_cli.problems import Problem


@dataclass(frozen=True)
class GradedRollout:
    """A training rollout with its problem, its text and whether it was right."""

    rollout: Rollout
    problem: Problem
    text: str
    correct: bool


class Method(Protocol):
    """What the training loop asks of a method."""

    name: str

    def rollouts_per_question(self) -> int:
        """How many completions of each question a step draws; 0 for off-policy methods."""

    def batch(self, rollouts: Sequence[GradedRollout], contexts: Contexts) -> LossBatch:
        """The loss of one step."""


def get(config: Config) -> Method:
    """The method that a config names."""
    from opsd_cli.methods.opsd import Opsd

    return Opsd(config)
