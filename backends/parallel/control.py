"""Messages between rank 0 and the workers, as the other ranks are called here.

A connection each, of the standard library's `multiprocessing`, on which both ends prove that they
know the run's key before anything is read. A thread at each end reads, so that the end of the other
process is noticed at once, also amid a computation: a worker then exits, and rank 0 raises an error
that names the worker, at the next message or progress report.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge, wait
from typing import Any

from opsd_cli.errors import BackendMissing, TrainingError

#: Seconds after which a machine that answers nothing counts as cut off: idle time, then probes.
IDLE, PROBES, INTERVAL = 10, 4, 5
#: Seconds that rank 0 may go on computing after a worker is lost, before the process is ended.
GRACE = 40.0
#: Seconds for every rank to start, import its framework and connect.
MEETING = 300.0


@dataclass(frozen=True)
class Hello:
    """The first message of a worker."""

    rank: int
    host: str
    process: int


@dataclass(frozen=True)
class Call:
    """A method to be called on a worker."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Value:
    """A value that rank 0 broadcasts during a call."""

    value: Any


@dataclass(frozen=True)
class Cancel:
    """The current call is to be abandoned."""


@dataclass(frozen=True)
class Close:
    """There will be no more calls."""


@dataclass(frozen=True)
class Partial:
    """A part of a call's result, or news of its progress."""

    value: Any


@dataclass(frozen=True)
class Done:
    """A call's result, and the worker's CPU seconds so far; `cancelled` if it was abandoned."""

    value: Any
    cpu_seconds: float
    cancelled: bool = False


@dataclass(frozen=True)
class Failed:
    """A call's error: its class if it is one of opsd's, message, hint, and traceback."""

    kind: str
    message: str
    hint: str
    trace: str


@dataclass(frozen=True)
class Lost:
    """A connection has ended: put into rank 0's queue by its own thread."""


class Workers:
    """Rank 0's connections to the workers.

    Args:
        connections: by rank.
        names: of each rank, for people: "rank 3 of 8 on host".
        host: the address at which the workers reach this process.
        explain: says why a worker has ended, where that is known.
    """

    def __init__(
        self,
        connections: dict[int, Connection],
        names: dict[int, str],
        host: str,
        explain: Callable[[int], str] = lambda rank: "",
    ) -> None:
        self.host = host
        self._connections, self._names, self._explain = connections, names, explain
        self._inbox: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._held: list[tuple[int, Any]] = []
        #: A worker that is lost.
        self._gone: int | None = None
        self._closing = threading.Event()
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
        why = self._explain(rank) or "it has ended, or its machine cannot be reached"
        return TrainingError(
            f"{self._names[rank]} is lost: {why}", "`--resume` goes on from the newest checkpoint"
        )

    def failed(self, rank: int, failure: Failed) -> Exception:
        """The error of a worker, with its name before the message."""
        from opsd_cli import errors

        kind = getattr(errors, failure.kind, TrainingError)
        error: Exception = kind(f"{self._names[rank]}: {failure.message}", failure.hint)
        error.add_note(failure.trace)
        return error

    def close(self) -> None:
        """Dismiss the workers."""
        self._closing.set()
        for connection in self._connections.values():
            with suppress(OSError, ValueError):
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
                    self._inbox.put((rank_of[connection], connection.recv()))
                except (EOFError, OSError, ValueError):
                    if self._closing.is_set():
                        return
                    rank = rank_of.pop(connection)
                    self._inbox.put((rank, Lost()))
                    threading.Thread(target=self._end_later, args=(rank,), daemon=True).start()

    def _end_later(self, rank: int) -> None:
        """End this process if it is still busy `GRACE` seconds after a worker was lost: it may wait
        in a collective that nobody will complete."""
        if not self._closing.wait(GRACE):
            error = self.lost(rank)
            print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)


class Channel:
    """A worker's connection to rank 0. The process exits when rank 0 has ended."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
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
        with suppress(OSError):  # its end is noticed by the thread that reads
            self._connection.send(message)

    def _read(self) -> None:
        while not self._closed:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # rank 0 says what happened
            if isinstance(message, Cancel):
                self.cancelled = True
            else:
                self._closed = isinstance(message, Close)
                self._inbox.put(message)


# -- meeting -----------------------------------------------------------------------------------


def listen(host: str) -> socket.socket:
    """A socket on any free port of an address of this machine."""
    return socket.create_server((host, 0), backlog=1024)


def accept(
    server: socket.socket,
    size: int,
    key: bytes,
    ended: Callable[[], str | None] = lambda: None,
    seconds: float = MEETING,
) -> tuple[dict[int, Connection], dict[int, Hello]]:
    """The connections of all workers, and what each said of itself.

    Args:
        ended: polled meanwhile; says which worker has ended, and why.

    Raises:
        BackendMissing: not all came in time, or one has ended.
    """
    server.settimeout(0.2)
    connections: dict[int, Connection] = {}
    hellos: dict[int, Hello] = {}
    until = time.monotonic() + seconds
    while len(connections) < size - 1:
        if (why := ended()) is not None:
            raise BackendMissing(f"a process of this run has ended: {why}", "see its output")
        if time.monotonic() > until:
            missing = [str(rank) for rank in range(1, size) if rank not in connections]
            raise BackendMissing(
                f"rank {', '.join(missing)} of {size} did not connect within {seconds:.0f} seconds",
                "check that every machine runs the same command and can reach "
                f"{server.getsockname()[0]}:{server.getsockname()[1]}",
            )
        try:
            peer, _ = server.accept()
        except TimeoutError:
            continue
        found = _greeted(peer, key)
        if found is not None:
            hello, connection = found
            connections[hello.rank], hellos[hello.rank] = connection, hello
    return connections, hellos


def _greeted(peer: socket.socket, key: bytes) -> tuple[Hello, Connection] | None:
    """A peer's connection, if it knows the key; nothing is unpickled before it has shown that."""
    peer.setblocking(True)
    keep_alive(peer)
    connection = Connection(peer.detach())
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        hello = connection.recv()
    except Exception:  # a stranger may send anything
        connection.close()
        return None
    return (hello, connection) if isinstance(hello, Hello) else None


def connect(host: str, port: int, key: bytes, rank: int) -> Channel:
    """A worker's connection to rank 0.

    Raises:
        BackendMissing: it cannot be reached.
    """
    try:
        peer = socket.create_connection((host, port), timeout=60)
    except OSError as error:
        raise BackendMissing(
            f"rank {rank} cannot reach rank 0 at {host}:{port}: {error}",
            "check the firewall between the machines",
        ) from error
    peer.setblocking(True)
    keep_alive(peer)
    connection = Connection(peer.detach())
    answer_challenge(connection, key)
    deliver_challenge(connection, key)
    connection.send(Hello(rank, socket.gethostname(), os.getpid()))
    return Channel(connection)


def keep_alive(peer: socket.socket) -> None:
    """Notice within half a minute that the other machine is cut off."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": IDLE, "TCP_KEEPALIVE": IDLE, "TCP_KEEPINTVL": INTERVAL,
        "TCP_KEEPCNT": PROBES, "TCP_USER_TIMEOUT": 1000 * (IDLE + PROBES * INTERVAL),
        "TCP_NODELAY": 1,
    }  # fmt: skip
    for name, value in options.items():
        if hasattr(socket, name):
            with suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
