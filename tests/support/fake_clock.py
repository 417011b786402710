"""Stand in for clocks: the one by which the vLLM client waits, and one that a test sets."""

from __future__ import annotations

import threading

from backends.vllm.transport import RequestClock


class VirtualClock(RequestClock):
    """Waits take no time; `waits` has their seconds, in order."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def wait(self, seconds: float, ended: threading.Event) -> None:
        self.waits.append(seconds)


class Seconds:
    """A clock that a test sets: calling it gives `now`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
