"""Interruption of a run by Ctrl-C or SIGTERM, checked after each finished rollout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from opsd_cli.errors import Interrupted

Item = TypeVar("Item")
Stop = Callable[[], bool]
"""Returns True once the user has asked to stop."""


def never() -> bool:
    """The `Stop` of work that cannot be interrupted."""
    return False


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
            raise Interrupted(f"stopped after {number:,} of {expected:,} rollouts")
