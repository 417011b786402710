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
        #: Calls that are open: the phase, and seconds of the calls inside.
        self._open: list[tuple[str, float]] = []

    def wrapped(
        self, name: str, work: Callable[..., object], not_in: str | None = None
    ) -> Callable[..., object]:
        """`work`, whose time is added to a phase.

        Args:
            name: of the phase.
            work: what is timed.
            not_in: a phase whose own the time is, where `work` is called inside it.
        """

        def timed(*args: object, **options: object) -> object:
            if self._open and self._open[-1][0] == not_in:
                return work(*args, **options)
            self._wait()
            start = time.perf_counter()
            self._open.append((name, 0.0))
            try:
                return work(*args, **options)
            finally:
                self._wait()
                spent = time.perf_counter() - start
                own = spent - self._open.pop()[1]
                self.seconds[name] = self.seconds.get(name, 0.0) + own
                if self._open:
                    outer, inside = self._open[-1]
                    self._open[-1] = outer, inside + spent

        return timed
