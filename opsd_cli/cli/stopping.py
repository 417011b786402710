"""Ctrl-C and SIGTERM as a question to the work under way: the first asks it to stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opsd_cli.cli.console import Output
from opsd_cli.interruption import signals_handled


@contextmanager
def stop_on_signal(out: Output) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts at once."""
    stopped = threading.Event()

    def ask(number: int, _: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        out.warn("stopping at the next rollout, then saving; press Ctrl-C again to stop at once")

    with signals_handled(ask):
        yield stopped
