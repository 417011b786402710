"""Times of work on a device that computes asynchronously."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_seconds(
    work: Callable[[], object], wait: Callable[[], object], repeats: int, warm: int = 1
) -> float:
    """Seconds of the fastest run.

    Args:
        work: what is timed.
        wait: returns when the device has finished all that it was given.
        repeats: timed runs.
        warm: runs before them.
    """
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


class Phases:
    """Seconds by phase, in which wrapped calls spend their own time: that of a wrapped call inside
    another one is the inner's alone.

    Args:
        wait: returns when the device has finished all that it was given.
    """

    def __init__(self, wait: Callable[[], object]) -> None:
        self.seconds: dict[str, float] = {}
        self._wait = wait
        self._open: list[float] = []  # seconds of inner calls, for each call that is open

    def wrapped(self, name: str, work: Callable[..., object]) -> Callable[..., object]:
        """`work`, whose time is added to a phase."""

        def timed(*args: object, **options: object) -> object:
            self._wait()
            start = time.perf_counter()
            self._open.append(0.0)
            try:
                return work(*args, **options)
            finally:
                self._wait()
                spent = time.perf_counter() - start
                own = spent - self._open.pop()
                self.seconds[name] = self.seconds.get(name, 0.0) + own
                if self._open:
                    self._open[-1] += spent

        return timed
