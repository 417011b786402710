"""How Ctrl-C and SIGTERM reach a run: a question that is asked after each finished rollout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from opsd_cli.errors import Interrupted

Item = TypeVar("Item")
Stop = Callable[[], bool]
"""Whether the user has asked for an end."""


def never() -> bool:
    """The `Stop` of work that nobody can interrupt."""
    return False


def until_stopped(items: Iterator[Item], expected: int, stop: Stop) -> Iterator[Item]:
    """The items as they come.

    Args:
        expected: how many there are; once all are in, there is nothing left to stop.

    Raises:
        Interrupted: `stop` said so after one of them. An engine that was still drawing the others
            is told to give up.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number < expected and stop():
            if isinstance(items, Generator):
                items.close()
            raise Interrupted(f"stopped after {number:,} of {expected:,} rollouts")
