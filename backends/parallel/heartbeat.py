"""Whether the workers' processes still run: each is asked now and then, and must answer in time.

A process that is suspended (SIGSTOP, a debugger, a sleeping machine) keeps its connection: its
kernel answers the probes of `connections.keep_alive` for it. So rank 0 asks, and the thread of the
worker that reads its messages answers, also while another one computes.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection

from backends.parallel.messages import Ping

#: Seconds without an answer after which a worker counts as suspended. A computation does not keep
#: the answer back for long: libraries release the interpreter's lock.
SILENCE = 300.0
#: Questions within that time. It is counted in questions, so that a suspension of rank 0 itself, or
#: of the whole machine, is not held against the workers.
_QUESTIONS = 24


class Heartbeat:
    """Asks the workers in a thread of its own, until `end`.

    Args:
        connections: by rank.
        locks: of these connections, held by whoever sends.
        silent: called once with the rank of a worker that has not answered in time.
        seconds: that a worker has for an answer.
    """

    def __init__(
        self,
        connections: Mapping[int, Connection],
        locks: Mapping[int, threading.Lock],
        silent: Callable[[int], None],
        seconds: float = SILENCE,
    ) -> None:
        self._connections, self._locks, self._silent = connections, locks, silent
        self._interval = seconds / _QUESTIONS
        self._ended = threading.Event()
        #: Questions that would have been asked since a worker was last heard, by rank.
        self._missed = dict.fromkeys(connections, 0)
        self._asked = dict.fromkeys(connections, False)
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def heard(self, rank: int) -> None:
        """Note that a message of this worker has come."""
        self._missed[rank], self._asked[rank] = 0, False

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()

    def _run(self) -> None:
        waited_for = set(self._connections)
        while not self._ended.wait(self._interval):
            for rank in sorted(waited_for):
                self._missed[rank] += 1
                if self._missed[rank] > _QUESTIONS:
                    waited_for.discard(rank)
                    self._silent(rank)
                elif not self._asked[rank]:
                    self._ask(rank)

    def _ask(self, rank: int) -> None:
        """Send a question, unless that would wait: this thread must not be kept."""
        lock, connection = self._locks[rank], self._connections[rank]
        if not lock.acquire(blocking=False):
            return  # a message is being sent, which the worker reads and may answer
        try:
            with suppress(OSError, ValueError):  # the thread that reads notices its end
                if select.select([], [connection], [], 0)[1]:
                    self._asked[rank] = True
                    connection.send(Ping())
        finally:
            lock.release()
