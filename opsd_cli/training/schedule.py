"""The questions, the learning rate and the measurements of a step, from its number alone.

Nothing here has state, so a checkpoint does not hold any of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from opsd_cli.config.sections import Optimizer, Train
from opsd_cli.errors import ConfigError
from opsd_cli.formatting import numbered
from opsd_cli.problems import Problem
from opsd_cli.seeds import derive_seed


def learning_rate(step: int, steps: int, optimizer: Optimizer) -> float:
    """The learning rate of a step, counted from 1: linear warm-up, then the schedule.

    A linear or cosine schedule reaches 0 after the last step, or after `optimizer.schedule_steps`.
    """
    warmup = optimizer.warmup_steps
    if step <= warmup:
        return optimizer.learning_rate * step / (warmup + 1)
    end = optimizer.schedule_steps or steps
    done = min(1.0, (step - 1 - warmup) / max(1, end - warmup))
    fall = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
    }[optimizer.schedule]
    return optimizer.learning_rate * fall


def validated(train: Train) -> tuple[int, ...]:
    """The steps after which validation is measured, without that before training."""
    every = [*range(train.evaluate_every, train.steps + 1, train.evaluate_every)]
    return (*every, *([] if every and every[-1] == train.steps else [train.steps]))


def tested_at_end(train: Train) -> tuple[int, ...]:
    """With `train.test_at_end`, the steps whose weights are measured on test after the last one."""
    if not train.test_at_end:
        return ()
    return (0, *validated(train)) if train.curve else (0,)


def require_enough(questions: int, problems: int) -> None:
    """Raise `ConfigError` if a step has more questions than there are training problems."""
    if questions > problems:
        raise ConfigError(
            f"train.questions_per_step is {questions}, but there "
            f"{'is' if problems == 1 else 'are'} only {numbered(problems, 'training problem')}",
            f"set it to {problems}{' or fewer' if problems > 1 else ''}, or bring more problems",
        )


class QuestionOrder:
    """The questions of every step: consecutive slices of one permutation an epoch.

    A step that spans two epochs has no question twice: questions that it took from the end of the
    old epoch come later in the new one. Every epoch has every question once.

    Args:
        problems: the training set, P problems.
        count: questions per step, at most P.
        seed: the run's.
    """

    def __init__(self, problems: Sequence[Problem], count: int, seed: int) -> None:
        if count > len(problems):
            raise ValueError(f"{count} questions a step from {len(problems)} problems")
        self._problems = problems
        self._count = count
        self._seed = seed
        self._epoch = 0
        self._order_P = self._permutation(0)

    def of_step(self, step: int) -> list[Problem]:
        """The questions of a step, counted from 1; all are different."""
        size, found = len(self._problems), []
        for index in range((step - 1) * self._count, step * self._count):
            epoch, place = divmod(index, size)
            found.append(self._problems[self._order(epoch)[place]])
        return found

    def _order(self, epoch: int) -> np.ndarray:
        """An epoch's questions as indices [P]; they depend on the end of the epoch before."""
        if epoch < self._epoch:
            self._epoch, self._order_P = 0, self._permutation(0)
        while self._epoch < epoch:
            self._epoch += 1
            # The number of questions of the spanning step that come from the old epoch.
            old = self._epoch * len(self._problems) % self._count
            fresh_P = self._permutation(self._epoch)
            if old:
                taken_P = np.isin(fresh_P, self._order_P[len(self._order_P) - old :])
                first = fresh_P[~taken_P][: self._count - old]
                fresh_P = np.concatenate([first, fresh_P[~np.isin(fresh_P, first)]])
            self._order_P = fresh_P
        return self._order_P

    def _permutation(self, epoch: int) -> np.ndarray:
        random = np.random.Generator(np.random.Philox(derive_seed(self._seed, "order", epoch)))
        return random.permutation(len(self._problems))
