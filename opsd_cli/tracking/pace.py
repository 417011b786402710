"""The pace of a run, and the time that it still takes, from the events that a listener receives.

Time left is estimated by token. The chance that a completion ends is taken to be the same at each
token: completions that ended with a stop token, over all tokens decoded, those of unfinished
completions included. With h the chance a token, a completion with room for r more tokens is
expected to take (1 - exp(-h r)) / h of them; with h = 0 it takes r. Tokens turn into seconds at the
measured pace. Prompts that are still to be read are added at the pace of those that have been.
Steps to come take the mean of the latest ones.

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
#: Prompts that join a running batch are shown as being read once this takes so many seconds.
READING_SECONDS = 2.0
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
    prompt_tokens: int = 0
    reading_seconds: float = 0.0

    @property
    def seconds_per_token(self) -> float:
        """Of the tokens decoded, with the reading of their prompts."""
        return (self.seconds + self.reading_seconds) / self.tokens

    def reading(self, prompt_tokens: int) -> float:
        """Seconds to read prompts of so many tokens; 0 while none have been read."""
        if not self.prompt_tokens:
            return 0.0
        return self.reading_seconds / self.prompt_tokens * prompt_tokens

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
        self._phase_began = self._decoded_at = self._reading_began = self._clock()
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
        if before.reading:
            pool.reading_seconds += now - self._decoded_at
            # Another call of the engine in the same phase counts from 0 again.
            pool.prompt_tokens += max(0, progress.prompt_tokens - before.prompt_tokens)
        else:
            pool.seconds += now - self._decoded_at
            self._reading_began = now
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
    def reading(self) -> tuple[int, int] | None:
        """Prompt tokens read, and of how many, while prompts are being read; else None."""
        decoded = self.decoded
        if decoded is None or not decoded.reading:
            return None
        if decoded.tokens and self._clock() - self._reading_began < READING_SECONDS:
            return None  # shown and hidden twice a second, it could not be read
        return decoded.prompt_tokens, decoded.prompt_total

    @property
    def reading_left(self) -> Left | None:
        """Until the phase's prompts are read; None while there is too little to estimate from."""
        decoded, pool = self.decoded, self._pool
        if decoded is None or not decoded.reading or not pool.prompt_tokens:
            return None
        seconds = pool.reading(decoded.prompt_total - decoded.prompt_tokens) - self._unreported
        return Left(seconds) if seconds > 0 else None

    @property
    def _unreported(self) -> float:
        """Seconds since the latest report."""
        return self._clock() - self._decoded_at

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
        if decoded is None or pool.seconds < LEAST_SECONDS or not pool.tokens:
            return None
        room = decoded.most - decoded.tokens
        few = pool.finished < min(LEAST_FINISHED, decoded.completions)
        if few and (pool.stopped or decoded.tokens < LEAST_SHARE * decoded.most):
            return None
        tokens = pool.expected(decoded.completions - decoded.finished, room)
        seconds = pool.reading(decoded.prompt_total - decoded.prompt_tokens)
        rate = None if decoded.reading else self.tokens_per_second
        if rate is None:
            # The speed so far, which no silence lowers: the time since the report is taken off.
            seconds += tokens * pool.seconds / pool.tokens - self._unreported
        else:
            seconds += tokens / rate
        return Left(seconds, at_most=not pool.stopped) if seconds > 0 or not tokens else None

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
            seconds += pool.expected(work.completions, room) * pool.seconds_per_token
            at_most = at_most or not pool.stopped
        return Left(seconds, at_most)

    @property
    def more_follows(self) -> bool:
        """True if anything follows the current phase."""
        return self._ahead != WorkAhead(completion_tokens=self._ahead.completion_tokens)
