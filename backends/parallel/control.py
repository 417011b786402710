"""Messages between rank 0 and the workers, as the other ranks are called here.

A thread at each end reads, so that the end of the other process is noticed at once, also amid a
computation: a worker then exits, and rank 0 raises an error that names the worker, at the next
message or progress report.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from backends.parallel.heartbeat import SILENCE, Heartbeat
from backends.parallel.messages import (
    Call,
    Cancel,
    Close,
    Done,
    Failed,
    Lost,
    Ping,
    Pong,
    Value,
)
from opsd_cli.errors import OpsdError, TrainingError

T = TypeVar("T")

#: Seconds that rank 0 may go on computing after a worker is lost, before the process is ended. With
#: `connections.CUT_OFF`, the time until a loss is noticed, less than a minute.
GRACE = 25.0


class Workers:
    """Rank 0's connections to the workers.

    Args:
        connections: by rank.
        names: of each rank, for people: "rank 3 of 8 on host".
        host: the address at which the workers reach this process.
        explain: says why a worker has ended, where that is known.
        silence: seconds without an answer after which a worker is given up.

    Attributes:
        silent: workers that were given up for that reason.
    """

    def __init__(
        self,
        connections: dict[int, Connection],
        names: dict[int, str],
        host: str,
        explain: Callable[[int], str] = lambda rank: "",
        silence: float = SILENCE,
    ) -> None:
        self.host = host
        self.silent: set[int] = set()
        self._silence = silence
        self._connections, self._names, self._explain = connections, names, explain
        self._inbox: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._held: list[tuple[int, Any]] = []
        #: True if the ranks compute together, so that one that fails keeps the others waiting.
        self.lockstep = False
        #: A worker that is lost.
        self._gone: int | None = None
        self._closing = threading.Event()
        #: Set once the failure of a worker has become an error of this process.
        self._told = threading.Event()
        self._locks = {rank: threading.Lock() for rank in connections}
        self._heartbeat = Heartbeat(connections, self._locks, self._is_silent, silence)
        threading.Thread(target=self._read, name="workers", daemon=True).start()

    @property
    def ranks(self) -> list[int]:
        """The workers' ranks."""
        return sorted(self._connections)

    @property
    def broken(self) -> bool:
        """True once a worker is lost: no call can succeed any more."""
        return self._gone is not None

    def send(self, message: Any, rank: int | None = None) -> None:
        """Send a message to one worker, or to all.

        Raises:
            TrainingError: a worker has ended.
        """
        for each in self.ranks if rank is None else [rank]:
            try:
                with self._locks[each]:
                    self._connections[each].send(message)
            except (OSError, ValueError) as error:
                raise self.lost(each) from error

    def receive(self, seconds: float | None = None) -> tuple[int, Any] | None:
        """The next message and its sender; None if none comes within `seconds` (None: for ever).

        Raises:
            TrainingError: a worker has ended.
        """
        if self._gone is not None:
            raise self.lost(self._gone)
        if self._held:
            return self._held.pop(0)
        while True:
            # In short waits, so that Ctrl-C is not kept waiting.
            with suppress(queue.Empty):
                return self._alive(self._inbox.get(timeout=0.5 if seconds is None else seconds))
            if seconds is not None:
                return None

    def collect(self, news: Callable[[int, Any], None]) -> dict[int, Done]:
        """Every worker's result of the current call.

        Args:
            news: receives a worker's rank and what it sends before its result.

        Raises:
            TrainingError: a worker has ended.
            OpsdError: a worker has failed; raised once all have answered.
        """
        results: dict[int, Done] = {}
        failures: dict[int, Failed] = {}
        while len(results) + len(failures) < len(self._connections):
            received = self.receive()
            assert received is not None
            rank, message = received
            if isinstance(message, Done):
                results[rank] = message
            elif isinstance(message, Failed):
                failures[rank] = message
            else:
                news(rank, message.value)
        for rank, failure in sorted(failures.items()):
            raise self.failed(rank, failure)
        return results

    def call(
        self,
        method: str,
        arguments: Callable[[int], tuple[Any, ...]],
        own: Callable[[], T],
        news: Callable[[int, Any], None],
    ) -> tuple[T, dict[int, Done]]:
        """Call a method on all ranks at once: rank 0's result, and those of the others.

        Args:
            arguments: by rank.
            own: calls it on rank 0.
            news: as `collect` has it.

        Raises:
            TrainingError: a worker has ended.
            OpsdError: a rank has failed; raised once all have ended the call, but at once where
                they wait for each other (`lockstep`).
        """
        for rank in self.ranks:
            self.send(Call(method, arguments(rank)), rank)
        try:
            result = own()
        except Exception as error:  # not Ctrl-C, for which nobody waits
            if self.lockstep and isinstance(error, OpsdError):
                raise
            try:
                self.collect(news)
            except OpsdError as theirs:
                # The cause: a collective fails where a rank is lost or has failed.
                if self.broken or self.lockstep:
                    raise theirs from error
            raise
        return result, self.collect(news)

    def check(self) -> None:
        """Raise `TrainingError` if a worker has ended; messages are kept."""
        while True:
            try:
                self._held.append(self._alive(self._inbox.get_nowait()))
            except queue.Empty:
                return

    def _alive(self, received: tuple[int, Any]) -> tuple[int, Any]:
        if isinstance(received[1], Lost):
            self._gone = received[0]
            raise self.lost(self._gone)
        return received

    def lost(self, rank: int) -> TrainingError:
        """The error for a worker that has ended or cannot be reached."""
        if rank in self.silent:
            why = f"it has not answered for {self._silence:g} seconds; it may be suspended"
        else:
            why = self._explain(rank) or "it has ended, or its machine cannot be reached"
        return TrainingError(
            f"{self._names[rank]} is lost: {why}", "`--resume` goes on from the newest checkpoint"
        )

    def failed(self, rank: int, failure: Failed) -> OpsdError:
        """The error of a worker, with its name before the message."""
        self._told.set()
        return self._error_of(rank, failure)

    def _error_of(self, rank: int, failure: Failed) -> OpsdError:
        from opsd_cli import errors

        kind = getattr(errors, failure.kind, TrainingError)
        error: OpsdError = kind(f"{self._names[rank]}: {failure.message}", failure.hint)
        error.add_note(failure.trace)
        return error

    def close(self) -> None:
        """Dismiss the workers."""
        self._closing.set()
        self._heartbeat.end()
        for rank, connection in self._connections.items():
            if rank in self.silent:
                continue
            with suppress(OSError, ValueError), self._locks[rank]:
                connection.send(Close())
        for connection in self._connections.values():
            with suppress(OSError):
                connection.close()

    def _read(self) -> None:
        rank_of = {connection: rank for rank, connection in self._connections.items()}
        while rank_of and not self._closing.is_set():
            try:
                ready = wait(list(rank_of), timeout=0.5)
            except (OSError, ValueError):  # closed while it was waited for
                return
            for connection in ready:
                assert isinstance(connection, Connection)
                try:
                    message = connection.recv()
                    self._heartbeat.heard(rank_of[connection])
                    if isinstance(message, Pong):
                        continue
                    self._inbox.put((rank_of[connection], message))
                    if isinstance(message, Failed) and self.lockstep:
                        explain = partial(self._error_of, rank_of[connection], message)
                        self._end_later(explain, self._told)
                except (EOFError, OSError, ValueError):
                    if self._closing.is_set():
                        return
                    rank = rank_of.pop(connection)
                    self._inbox.put((rank, Lost()))
                    self._end_later(partial(self.lost, rank), self._closing)

    def _is_silent(self, rank: int) -> None:
        self.silent.add(rank)
        self._inbox.put((rank, Lost()))
        self._end_later(partial(self.lost, rank), self._closing)

    def _end_later(self, explain: Callable[[], OpsdError], noticed: threading.Event) -> None:
        """End this process if it is still busy `GRACE` seconds after a worker was lost or failed:
        it may wait in a collective that nobody will complete."""

        def end() -> None:
            if not noticed.wait(GRACE) and not self._closing.is_set():
                error = explain()
                print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr, flush=True)
                os._exit(error.exit_code)

        threading.Thread(target=end, daemon=True).start()


class Channel:
    """A worker's connection to rank 0. The process exits when rank 0 has ended."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = False
        #: True once the current call is to be abandoned.
        self.cancelled = False
        threading.Thread(target=self._read, name="rank 0", daemon=True).start()

    def receive(self) -> Any:
        """The next message."""
        return self._inbox.get()

    def broadcast(self, _: Any) -> Any:
        """The value that rank 0 hands to all."""
        message = self.receive()
        assert isinstance(message, Value)
        return message.value

    def send(self, message: Any) -> None:
        """Send a message to rank 0."""
        with suppress(OSError), self._lock:  # its end is noticed by the thread that reads
            self._connection.send(message)

    def _read(self) -> None:
        while not self._closed:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # rank 0 says what happened
            if isinstance(message, Cancel):
                self.cancelled = True
            elif isinstance(message, Ping):
                # Aside: rank 0 may be busy with what this thread would then not read.
                threading.Thread(target=self.send, args=(Pong(),), daemon=True).start()
            else:
                self._closed = isinstance(message, Close)
                self._inbox.put(message)
