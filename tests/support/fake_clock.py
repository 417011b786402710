"""Stands in for the clock by which the vLLM client waits between two requests."""

from __future__ import annotations

import threading

from backends.vllm.transport import RequestClock


class VirtualClock(RequestClock):
    """Waits take no time; `waits` has their seconds, in order."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def wait(self, seconds: float, ended: threading.Event) -> None:
        self.waits.append(seconds)
