"""What a run still has to do after its current phase: what an estimate of the time left is made of.

Everything follows from the config, the sizes of the splits, the step and the name of the phase. The
numbers are upper bounds: a run may stop early, and its best step may need no test of its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.problems.sources import Splits
from opsd_cli.statistics import Estimate
from opsd_cli.tracking.listener import (
    ANALYSES,
    DIVERGENCE,
    GRADIENT,
    LIKELIHOOD,
    PREFLIGHT_ATTEMPTS,
    PREFLIGHT_FEEDBACK,
    PREFLIGHT_SCORES,
    PREFLIGHT_SIBLINGS,
    ROLLOUTS,
    Decoded,
    EvaluationRow,
    Listener,
    StepRow,
    WorkAhead,
)
from opsd_cli.training.schedule import tested_at_end
from opsd_cli.training.state import RunState

#: Names of the phases outside the steps, in the order in which a run has them; without what the
#: phases end with that read what was sampled (`DIVERGENCE`, `LIKELIHOOD`).
PREFLIGHT = (
    PREFLIGHT_SIBLINGS, PREFLIGHT_FEEDBACK, "preflight: student", "preflight: teacher",
    PREFLIGHT_ATTEMPTS, PREFLIGHT_SCORES, "preflight",
)  # fmt: skip
BASE, VALIDATION, CURVE, FINAL, BEST = (
    "test (base)", "validation", "test (curve)", "test (final)", "test (best)",
)  # fmt: skip
#: With `train.test_at_end`, the test of the weights of a step.
AT_END = "test (step "
#: Those of the watch set, each right after the test's of the same name.
WATCH_BASE, WATCH_FINAL, WATCH_BEST = "watch (base)", "watch (final)", "watch (best)"


def work_ahead(config: Config, splits: Splits, state: RunState, phase: str) -> WorkAhead:
    """What follows a phase.

    Args:
        state: of the run; in phases of a step, `state.step` is the step before it.
        phase: its name.
    """
    phase = phase.removesuffix(DIVERGENCE).removesuffix(LIKELIHOOD)
    in_step = phase in (ROLLOUTS, ANALYSES, GRADIENT)
    ended = (FINAL, WATCH_FINAL, BEST, WATCH_BEST)
    left = 0 if phase in ended else config.train.steps - state.step
    return WorkAhead(
        rollouts=max(0, left - in_step),
        gradients=max(0, left - (phase == GRADIENT)),
        completions=config.evaluation.samples * _problems_ahead(config, splits, state, phase),
        completion_tokens=evaluation_sampling(config).max_new_tokens,
    )


def _problems_ahead(config: Config, splits: Splits, state: RunState, phase: str) -> int:
    """Problems of all evaluations that follow the phase."""
    train = config.train
    validation, test = len(splits.validation.problems), len(splits.test.problems)
    watch = 0 if splits.watch is None else len(splits.watch.problems)
    another = state.best_step not in (0, state.step)  # the best step is measured on its own
    if phase == WATCH_BEST:
        return 0
    if phase == BEST:
        return watch
    if phase in (FINAL, WATCH_FINAL):
        tested = test * (not train.curve)
        return watch * (phase == FINAL) + (tested + watch) * another
    count = 2 * watch  # at the end and at the best step
    asked = min(config.preflight.problems, len(splits.train.problems))
    # What follows siblings or feedback, student, teacher and attempts: both roles, one, none.
    count += dict(zip(PREFLIGHT, (2 * asked, 2 * asked, asked, 0, 0, 0, 0), strict=True)).get(
        phase, 0
    )
    if phase in PREFLIGHT and not train.test_at_end:
        count += test
    if phase in (*PREFLIGHT, BASE):
        count += watch
    if phase in (*PREFLIGHT, BASE, WATCH_BASE):
        count += validation
    due = -(-train.steps // train.evaluate_every)
    done = due if state.step >= train.steps else state.step // train.evaluate_every
    if train.test_at_end:
        count += (due - done) * validation
        after = int(phase.removeprefix(AT_END).rstrip(")")) if phase.startswith(AT_END) else -1
        count += test * sum(step > after for step in tested_at_end(train))
        return count if train.curve else count + 2 * test
    count += (due - done) * (validation + test * train.curve)
    if train.curve:  # every validation's step is tested, the last and the best among them
        return count + test * (phase == VALIDATION and state.step > 0)
    return count + 2 * test


class Foreseeing(Listener):
    """Passes every event to another listener, and before each phase what follows it.

    Args:
        state: of the run; its step is read at each phase.
    """

    def __init__(self, inner: Listener, config: Config, splits: Splits, state: RunState) -> None:
        self._inner = inner
        self._config, self._splits, self._state = config, splits, state

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self._inner.ahead(work_ahead(self._config, self._splits, self._state, name))
        self._inner.phase(name, total, done)

    def note(self, message: str) -> None:
        self._inner.note(message)

    def warn(self, message: str) -> None:
        self._inner.warn(message)

    def working(self, what: str) -> AbstractContextManager[None]:
        return self._inner.working(what)

    def advance(self, units: int = 1) -> None:
        self._inner.advance(units)

    def decoding(self, progress: Decoded) -> None:
        self._inner.decoding(progress)

    def learning(self, done: int, total: int) -> None:
        self._inner.learning(done, total)

    def ahead(self, work: WorkAhead) -> None:
        self._inner.ahead(work)

    def step(self, row: StepRow) -> None:
        self._inner.step(row)

    def evaluation(self, row: EvaluationRow) -> None:
        self._inner.evaluation(row)

    def preflight(self, student: Estimate, teacher: Estimate, problems: int) -> None:
        self._inner.preflight(student, teacher, problems)

    def checkpoint(self, step: int, path: str) -> None:
        self._inner.checkpoint(step, path)
