"""Waiting for other threads in a way that Ctrl-C always ends.

Python runs the handler of a signal in the main thread, between two instructions. A main thread that
waits for a lock gets there only if the operating system interrupts its wait: not if another thread
was given the signal, nor if the signal came just before the wait began. Each wait here therefore
ends after a second and begins anew.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

#: Seconds after which a wait begins anew.
_SECONDS = 1.0

T = TypeVar("T")


def until_done(job: Future[T]) -> None:
    """Wait until a job has ended, in success or not."""
    while not job.done():
        wait([job], _SECONDS)


def result_of(job: Future[T]) -> T:
    """The result of a job; its error is raised."""
    until_done(job)
    return job.result()


def as_finished(jobs: Sequence[Future[T]]) -> Iterator[Future[T]]:
    """Jobs in the order in which they end; those that have ended come first."""
    ended: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()
    for job in jobs:
        job.add_done_callback(ended.put)
    for _ in jobs:
        yield _taken(ended)


def _taken(items: queue.SimpleQueue[T]) -> T:
    while True:
        try:
            return items.get(timeout=_SECONDS)
        except queue.Empty:
            pass
