"""What the training loop asks of a method, with the defaults that most methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from backends.interface import LossBatch, Policy
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.grading import grades
from opsd_cli.methods.chosen import ALL
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import reads_solutions
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import GradedRollout
from opsd_cli.token_ledger import TokenLedger

#: The value of `train.weigh_groups` and `train.anchor` that changes nothing.
NONE = "none"
Headline = Literal["tested", "baseline"]


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without.

    Attributes:
        teacher: the privileged teacher; the preflight then applies.
        solutions: the worked solution of every training problem, for the loss itself. The teacher
            may need it too: `Method.reads_solutions`.
        rewards: grades of the rollouts enter the loss.
    """

    teacher: bool = False
    solutions: bool = False
    rewards: bool = False


@dataclass(frozen=True)
class StepInputs:
    """What a step learns from.

    Attributes:
        step: its number, counted from 1.
        questions: its training problems.
        rollouts: their graded rollouts, grouped by question; empty for off-policy methods.
        builder: the student's prompts.
        analyst: the teacher's prompts, by rollout.
    """

    step: int
    questions: Sequence[Problem]
    rollouts: Sequence[GradedRollout]
    builder: PromptBuilder
    analyst: TeacherAnalyst


@dataclass(frozen=True)
class LossPlan:
    """What one step learns.

    Attributes:
        batches: an optimiser step is taken after each; empty where there is nothing to learn.
        spent: tokens of forward passes that the method itself asked for.
        metrics: the method's own numbers for `metrics.jsonl`.
        anchor: a second loss batch, whose gradient is added to that of each of `batches` before
            the optimiser step; None leaves it out.
    """

    batches: tuple[LossBatch, ...]
    spent: TokenLedger = field(default_factory=TokenLedger)
    metrics: dict[str, float] = field(default_factory=dict)
    anchor: LossBatch | None = None


@dataclass(frozen=True)
class RunSizes:
    """Sizes of a run from which its tokens are bounded.

    Attributes:
        rollouts: completions that the run learns from, over all steps.
        student_sequence: tokens of the longest student prompt with a full completion.
        teacher_sequence: tokens of the longest teacher prompt with a full completion.
        student_prompt: tokens of the longest student prompt.
        reference: tokens of the longest reference solution.
    """

    rollouts: int
    student_sequence: int
    teacher_sequence: int
    student_prompt: int
    reference: int


class Method(ABC):
    """A learning method of one run.

    Attributes:
        name: its key in `opsd_cli.methods.METHODS`.
        needs: what it cannot do without.
        headline: its part in a comparison's headline: the method under test, or the baseline.
        distils: whether the loss on a completion is its divergence from the teacher alone. Single
            completions can then be left out (`train.learn_from`), questions weighed
            (`train.weigh_groups`) and an anchor added (`train.anchor`), and the warning of
            `opsd_cli.training.thinking` applies.

    Raises:
        ConfigError: one of these keys is set for a method that cannot do this, or the method needs
            rewards and nothing is graded.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    headline: ClassVar[Headline | None] = None
    distils: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        train = config.train
        for key, chosen, neutral, cannot in (
            ("learn_from", train.learn_from, ALL, "cannot leave rollouts out by their grade"),
            ("weigh_groups", train.weigh_groups, NONE, "does not weigh questions"),
            ("anchor", train.anchor, NONE, "has no anchor"),
        ):
            if chosen != neutral and not self.distils:
                raise ConfigError(
                    f"train.{key} is {chosen}, and {self.name} {cannot}",
                    "it is a setting of opsd: leave it out, or set it for that method alone, in a "
                    f"file: methods: {{opsd: {{train: {{{key}: {chosen}}}}}}}",
                )
        if self.needs.rewards and not grades(config.grading):
            raise ConfigError(
                f"{self.name} learns from rewards, and grading.grader=none gives none",
                "use --method opsd, which needs no grade, or choose a grading.grader that grades "
                "(docs/graders.md)",
            )
        self._config = config

    @abstractmethod
    def rollouts_per_question(self) -> int:
        """Completions of each question in a step: the group size; 0 for off-policy methods."""

    @abstractmethod
    def build_loss(self, inputs: StepInputs, policy: Policy) -> LossPlan:
        """The loss batches of a step.

        Raises:
            DataError: a training problem has no reference, and the method needs it.
        """

    @abstractmethod
    def tokens_read(self, sizes: RunSizes) -> TokenLedger:
        """The most tokens that a run's losses read, by kind; sampling and analyses not counted."""

    def reads_solutions(self) -> bool:
        """True if every training problem must have a worked solution."""
        teacher = self.needs.teacher and reads_solutions(self._config.teacher)
        return self.needs.solutions or teacher

    def resampling_rounds(self) -> int:
        """How many times a step may replace the questions of zero-variance groups."""
        return 0

    def has_signal(self, group: Sequence[GradedRollout]) -> bool:
        """False for a zero-variance group: one question's rollouts have no training signal."""
        return True

    def updates_per_step(self) -> int:
        """Optimiser updates of a step."""
        return self._config.train.passes

    def steps_with_teacher(self) -> int:
        """Steps of the run in which the teacher is asked."""
        return self._config.train.steps if self.needs.teacher else 0
