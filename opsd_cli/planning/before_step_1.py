"""The rollouts that precede the first step of a run: how many, and the keys that reduce them.

The preflight asks the student and the teacher the same problems, and with `teacher.reference:
sibling` the student more often, for what the teacher reads; validation and test are measured once
before training. On a slow machine these may take longer than the steps themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.grading import grades
from opsd_cli.prompts.references import OF_ONE_ROLLOUT


@dataclass(frozen=True)
class RolloutsBeforeStep1:
    """Completions that are sampled before the first step, by what they are for."""

    preflight: int
    validation: int
    test: int
    watch: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.preflight + self.validation + self.test + self.watch

    @property
    def sentence(self) -> str:
        """The numbers in words."""
        return (
            f"{self.total:,} rollouts precede step 1: {self.preflight:,} of preflight, "
            f"{self.validation:,} of validation"
            + (f", {self.test:,} of test" if self.test else "")
            + (f", {self.watch:,} of watch" if self.watch else "")
        )

    @property
    def fewer(self) -> str:
        """The config keys that reduce them, in words."""
        keys = {
            "preflight.problems": self.preflight,
            "data.validation_problems": self.validation,
            "data.test_problems": self.test,
            "data.watch_problems": self.watch,
        }
        return f"fewer with {', '.join(key for key, number in keys.items() if number)}"


def before_step_1(config: Config, problems: Mapping[str, int]) -> RolloutsBeforeStep1:
    """The rollouts that precede step 1.

    Args:
        config: the run's.
        problems: number of problems of "train", "validation", "test" and, if there is one,
            "watch".
    """
    samples = config.evaluation.samples
    return RolloutsBeforeStep1(
        preflight_rollouts(config, problems["train"]),
        samples * problems["validation"],
        0 if config.train.test_at_end else samples * problems["test"],
        samples * problems.get("watch", 0),
    )


def preflight_rollouts(config: Config, available: int | None) -> int:
    """The most completions of the preflight, without the teacher's analyses.

    Args:
        available: training problems; None if their number is unknown.
    """
    method = methods.get(config)
    if not (config.preflight.enabled and method.needs.teacher):
        return 0
    asked = config.preflight.problems
    asked = asked if available is None else min(asked, available)
    of_one_rollout = config.teacher.reference in OF_ONE_ROLLOUT
    rollouts = method.rollouts_per_question() if of_one_rollout else 0
    roles = 2 if grades(config.grading) else 1  # the teacher is not sampled where nothing is graded
    return asked * (roles * config.evaluation.samples + rollouts)
