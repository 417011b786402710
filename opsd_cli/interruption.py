"""Interruption by Ctrl-C or SIGTERM: handlers of signals, and rollouts that end at a request."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from opsd_cli.errors import Interrupted
from opsd_cli.formatting import numbered

Item = TypeVar("Item")
Stop = Callable[[], bool]
"""Returns True once the user has asked to stop."""


def never() -> bool:
    """The `Stop` of work that cannot be interrupted."""
    return False


@contextmanager
def signals_handled(
    handler: Callable[[int, Any], None],
    numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[None]:
    """Within the block these signals call `handler`; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def until_stopped(items: Iterator[Item], expected: int, stop: Stop) -> Iterator[Item]:
    """The items of an iterator, until the user asks to stop.

    Args:
        expected: number of items; after the last one `stop` is not called.

    Raises:
        Interrupted: `stop` returned True after an item. A generator is closed, so that an engine
            gives up the unfinished rollouts.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number < expected and stop():
            if isinstance(items, Generator):
                items.close()
            raise Interrupted(f"stopped after {number:,} of {numbered(expected, 'rollout')}")
