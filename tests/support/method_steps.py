"""A step of a method on three small problems, without a trainer."""

from __future__ import annotations

from collections.abc import Sequence

from backends.interface import Policy
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.methods.base import LossPlan, StepInputs
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import GradedRollout
from tests.support.fakes import FakePolicy

PROBLEMS = [
    Problem(f"p{n}", f"{n} + 1", f"{n} + 1 = {n + 1}", str(n + 1), "made") for n in range(3)
]


def loss_plan_of(
    config: Config,
    rollouts: Sequence[GradedRollout],
    policy: Policy,
    step: int = 1,
    questions: Sequence[Problem] = PROBLEMS,
) -> LossPlan:
    """The loss that the config's method makes of a step's rollouts."""
    builder = PromptBuilder(config, FakePolicy.tokenizer)
    analyst = TeacherAnalyst(config, policy, builder)
    inputs = StepInputs(step, questions, rollouts, builder, analyst)
    return methods.get(config).build_loss(inputs, policy)
