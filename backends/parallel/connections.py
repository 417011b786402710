"""Connections between rank 0 and the workers: made, and given up when the other machine is gone.

They are those of the standard library's `multiprocessing`. Both ends prove that they know the run's
key before anything is unpickled.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

from backends.parallel.messages import Hello
from opsd_cli.errors import BackendMissing

#: Seconds after which a machine that answers nothing counts as cut off: idle time, then probes.
IDLE, PROBES, INTERVAL = 10, 4, 5
#: Their sum.
CUT_OFF = IDLE + PROBES * INTERVAL
#: Seconds for every rank to start, import its framework and connect.
MEETING = 300.0
#: Seconds in which whoever connects has to show that it knows the key.
GREETING = 10


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
    _give_up_reading_after(peer, GREETING)
    waited_for = peer.dup()
    connection = Connection(peer.detach())
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        hello = connection.recv()
        _give_up_reading_after(waited_for, 0)
    except Exception:  # a stranger may send anything, or nothing
        connection.close()
        return None
    finally:
        waited_for.close()
    return (hello, connection) if isinstance(hello, Hello) else None


def connect(host: str, port: int, key: bytes, rank: int) -> Connection:
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
    return connection


def _give_up_reading_after(peer: socket.socket, seconds: int) -> None:
    """Let a read of this connection fail after so many seconds without a byte; 0 waits for ever."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def keep_alive(peer: socket.socket) -> None:
    """Notice within half a minute that the other machine is cut off."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": IDLE, "TCP_KEEPALIVE": IDLE, "TCP_KEEPINTVL": INTERVAL,
        "TCP_KEEPCNT": PROBES, "TCP_USER_TIMEOUT": 1000 * CUT_OFF,
        "TCP_NODELAY": 1,
    }  # fmt: skip
    for name, value in options.items():
        if hasattr(socket, name):
            with suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
