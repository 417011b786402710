"""The rollouts that precede the first step of a run: how many, and the keys that reduce them.

The preflight asks the student and the teacher the same problems, and with `teacher.reference:
sibling` the student more often, for what the teacher reads; where the reference does not help, the
student makes more attempts for the teacher to score. Validation and test are measured once before
training. On a slow machine these may take longer than the steps themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.formatting import numbered
from opsd_cli.grading import grades
from opsd_cli.prompts.references import OF_ONE_ROLLOUT
from opsd_cli.training.preflight_signal import ATTEMPTS


@dataclass(frozen=True)
class RolloutsBeforeStep1:
    """Completions that are sampled before the first step, by what they are for.

    Attributes:
        attempts: those that the preflight adds at most, if the teacher does not answer better.
    """

    preflight: int
    validation: int
    test: int
    watch: int = 0
    attempts: int = 0

    @property
    def total(self) -> int:
        """All of them, without the attempts."""
        return self.preflight + self.validation + self.test + self.watch

    @property
    def most(self) -> int:
        """All of them, with the attempts."""
        return self.total + self.attempts

    @property
    def claim(self) -> str:
        """How many there are, in words."""
        verb = "precedes" if self.total == 1 else "precede"
        return f"{numbered(self.total, 'rollout')} {verb} step 1{self.if_no_help}"

    @property
    def if_no_help(self) -> str:
        """The number with the attempts, in words, after a comma; empty if there are none."""
        return f", up to {self.most:,} if the reference does not help" if self.attempts else ""

    @property
    def sentence(self) -> str:
        """The numbers in words."""
        return (
            f"{self.claim}: {self.preflight:,} of preflight, {self.validation:,} of validation"
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


def before_step_1(config: Config, problems: Mapping[str, int | None]) -> RolloutsBeforeStep1:
    """The rollouts that precede step 1.

    Args:
        config: the run's.
        problems: number of problems of "train", "validation", "test" and, if there is one,
            "watch"; None where it is not known.
    """
    samples = config.evaluation.samples
    return RolloutsBeforeStep1(
        preflight_rollouts(config, problems["train"]),
        samples * (problems["validation"] or 0),
        0 if config.train.test_at_end else samples * (problems["test"] or 0),
        samples * (problems.get("watch") or 0),
        _new_attempts(config, problems["train"]),
    )


def preflight_rollouts(config: Config, available: int | None) -> int:
    """The most completions of a preflight whose teacher answers better, without its analyses.

    Args:
        available: training problems; None if their number is unknown.
    """
    method = methods.get(config)
    asked = preflight_problems(config, available)
    of_one_rollout = config.teacher.reference in OF_ONE_ROLLOUT
    rollouts = method.rollouts_per_question() if of_one_rollout else 0
    roles = 2 if grades(config.grading) else 1  # the teacher is not sampled where nothing is graded
    return asked * (roles * config.evaluation.samples + rollouts)


def preflight_attempts(config: Config, available: int | None) -> int:
    """The most completions that a preflight adds whose teacher does not answer better.

    The teacher scores them, and with references of rollouts those that are there already. None
    where nothing is graded.

    Args:
        available: training problems; None if their number is unknown.
    """
    if not grades(config.grading):
        return 0
    rollouts = methods.get(config).rollouts_per_question()
    return preflight_problems(config, available) * max(ATTEMPTS, rollouts)


def _new_attempts(config: Config, available: int | None) -> int:
    """Those of `preflight_attempts` that are sampled for it: rollouts that are there are not."""
    rollouts = methods.get(config).rollouts_per_question()
    if config.teacher.reference in OF_ONE_ROLLOUT and rollouts >= ATTEMPTS:
        return 0
    return preflight_attempts(config, available)


def preflight_problems(config: Config, available: int | None) -> int:
    """The problems that the preflight asks, of so many; 0 without a preflight."""
    if not (config.preflight.enabled and methods.get(config).needs.teacher):
        return 0
    asked = config.preflight.problems
    return asked if available is None else min(asked, available)
