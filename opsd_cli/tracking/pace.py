"""The pace of a run, and the time that it still takes, from the events that a listener receives.

Time left is estimated by token. The chance that a completion ends is taken to be the same at each
token: completions that ended with a stop token, over all tokens decoded, those of unfinished
completions included. With h the chance a token, a completion with room for r more tokens is
expected to take (1 - exp(-h r)) / h of them; with h = 0 it takes r. Tokens turn into seconds at the
measured pace. Steps to come take the mean of the latest ones.

Nothing is estimated before there is enough to estimate from. All times are in seconds.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from opsd_cli.tracking.listener import ANALYSES, GRADIENT, ROLLOUTS, Decoded, StepRow, WorkAhead

#: What an estimate needs at least: seconds of decoding and finished completions; or, if no
#: completion has ended by itself, this share of the most tokens.
LEAST_SECONDS, LEAST_FINISHED, LEAST_SHARE = 3.0, 8, 0.25
#: The current speed is that of the last so many seconds.
WINDOW_SECONDS = 10.0
#: The steps to come take as long as the mean of so many.
RECENT_STEPS = 20
_IN_STEP = (ROLLOUTS, ANALYSES, GRADIENT)
_NOTHING = Decoded(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Left:
    """Estimated seconds left; `at_most` where no completion has ended before its limit."""

    seconds: float
    at_most: bool = False


@dataclass
class _Pool:
    """What was decoded so far in phases of one kind."""

    tokens: int = 0
    seconds: float = 0.0
    finished: int = 0
    stopped: int = 0

    def expected(self, completions: float, room: float) -> float:
        """Tokens that completions take which have room for so many in total."""
        if not self.stopped or not completions:
            return room
        chance = self.stopped / self.tokens
        return completions * (1 - math.exp(-chance * room / completions)) / chance


class Pace:
    """Receives events as a `Listener` does, and answers questions about time at any moment.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._pools = {True: _Pool(), False: _Pool()}  # by whether the phase is one of a step
        self._steps: deque[tuple[float, float]] = deque(maxlen=RECENT_STEPS)
        self._step_rollouts = self._step_rest = 0.0
        self._ahead = WorkAhead()
        self.row: StepRow | None = None
        self._begin("starting", 0, 0)

    def _begin(self, name: str, total: int, done: int) -> None:
        self.name, self.total, self.done = name, total, done
        self._phase_began = self._decoded_at = self._clock()
        self.decoded: Decoded | None = None
        self.learned: tuple[int, int] | None = None
        self._window: deque[tuple[float, int]] = deque()

    @property
    def _pool(self) -> _Pool:
        return self._pools[self.name in _IN_STEP]

    # -- events ----------------------------------------------------------------------------------

    def ahead(self, work: WorkAhead) -> None:
        """As `Listener.ahead`."""
        self._ahead = work

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """As `Listener.phase`."""
        self._close()
        if name not in _IN_STEP:  # what was before belongs to no step
            self._step_rollouts = self._step_rest = 0.0
        self._begin(name, total, done)

    def _close(self) -> None:
        """Add the current phase's time to its step."""
        seconds = self._clock() - self._phase_began
        if self.name == ROLLOUTS:
            self._step_rollouts += seconds
        elif self.name in _IN_STEP:
            self._step_rest += seconds

    def advance(self, units: int = 1) -> None:
        """As `Listener.advance`."""
        self.done += units

    def decoding(self, progress: Decoded) -> None:
        """As `Listener.decoding`."""
        now, before, pool = self._clock(), self.decoded or _NOTHING, self._pool
        pool.tokens += progress.tokens - before.tokens
        pool.finished += progress.finished - before.finished
        pool.stopped += progress.stopped - before.stopped
        pool.seconds += now - self._decoded_at
        self._decoded_at = now
        self.decoded = progress
        if progress.tokens and not (progress.finished or before.tokens):
            self._window.clear()  # the time until the first token went into reading the prompts
        self._window.append((now, progress.tokens))
        while len(self._window) > 2 and self._window[1][0] <= now - WINDOW_SECONDS:
            self._window.popleft()

    def learning(self, done: int, total: int) -> None:
        """As `Listener.learning`."""
        self.learned = (done, total)

    def step(self, row: StepRow) -> None:
        """As `Listener.step`."""
        self._close()
        self._steps.append((self._step_rollouts, self._step_rest))
        self._step_rollouts = self._step_rest = 0.0
        self._phase_began = self._clock()
        self.row = row
        self._began = self._clock() - row.seconds  # the time of former processes included

    # -- answers ---------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Since the run began, over all processes that have worked on it once a step is done."""
        return self._clock() - self._began

    @property
    def phase_elapsed(self) -> float:
        """Since the current phase began."""
        return self._clock() - self._phase_began

    @property
    def tokens_per_second(self) -> float | None:
        """Of the last seconds of the current phase; None while there is too little to say."""
        points = tuple(self._window)
        if not points:
            return None
        first, now = points[0], self._clock()
        tokens, seconds = points[-1][1] - first[1], now - first[0]
        return tokens / seconds if tokens and seconds >= 1 else None

    @property
    def phase_left(self) -> Left | None:
        """Until the end of the current phase; None while there is too little to estimate from."""
        if self.learned is not None or self.name == GRADIENT:
            return self._learning_left()
        decoded, pool = self.decoded, self._pool
        if decoded is None or pool.seconds < LEAST_SECONDS:
            return None
        room = decoded.most - decoded.tokens
        few = pool.finished < min(LEAST_FINISHED, decoded.completions)
        if few and (pool.stopped or decoded.tokens < LEAST_SHARE * decoded.most):
            return None
        tokens = pool.expected(decoded.completions - decoded.finished, room)
        rate = self.tokens_per_second or pool.tokens / pool.seconds
        return Left(tokens / rate, at_most=not pool.stopped)

    def _learning_left(self) -> Left | None:
        done, total = self.learned or (0, 0)
        elapsed = self.phase_elapsed
        if done and elapsed >= 1:
            return Left(elapsed / done * (total - done))
        if self._steps:
            return Left(max(0.0, self._mean(1) - elapsed))
        return None

    def _mean(self, part: int) -> float:
        """Mean seconds of the latest steps: of their rollouts (0), of the rest (1)."""
        return sum(step[part] for step in self._steps) / len(self._steps)

    @property
    def left(self) -> Left | None:
        """Until the end of everything; None while there is too little to estimate from."""
        work, phase = self._ahead, self.phase_left
        if phase is None:
            return None
        seconds, at_most = phase.seconds, phase.at_most
        if work.rollouts or work.gradients:
            if not self._steps:
                return None
            seconds += work.rollouts * self._mean(0) + work.gradients * self._mean(1)
        if work.completions:
            pool = self._pools[False]
            if pool.seconds < LEAST_SECONDS or not pool.finished:
                return None
            room = work.completions * work.completion_tokens
            seconds += pool.expected(work.completions, room) * pool.seconds / pool.tokens
            at_most = at_most or not pool.stopped
        return Left(seconds, at_most)

    @property
    def more_follows(self) -> bool:
        """True if anything follows the current phase."""
        return self._ahead != WorkAhead(completion_tokens=self._ahead.completion_tokens)
