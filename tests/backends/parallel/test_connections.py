"""Who may join a run: workers that know its key, whoever else connects meanwhile."""

from __future__ import annotations

import socket
import threading
from multiprocessing.connection import Connection

import pytest

from backends.parallel import connections, control
from backends.parallel.messages import Close
from opsd_cli.errors import BackendMissing

KEY = b"k" * 32


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GREETING", 1)


def joining(address: tuple[str, int], key: bytes, joined: list[Connection]) -> threading.Thread:
    def join() -> None:
        try:
            joined.append(connections.connect(*address, key, 1))
        except Exception:  # refused
            return

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    return thread


def test_a_stranger_who_says_nothing_does_not_keep_the_workers_out() -> None:
    joined: list[Connection] = []
    with connections.listen("127.0.0.1") as server:
        address = server.getsockname()
        with socket.create_connection(address), socket.create_connection(address) as talker:
            talker.sendall(b"GET / HTTP/1.1\r\n\r\n")
            worker = joining(address, KEY, joined)
            found, hellos = connections.accept(server, 2, KEY)
            worker.join()
    assert hellos[1].rank == 1
    found[1].send(Close())  # the connection works, and waits longer than a greeting may
    assert isinstance(joined[0].recv(), Close)
    assert not found[1].poll(1.5)
    joined[0].send("late")
    assert found[1].recv() == "late"


def test_a_machine_that_is_cut_off_ends_the_run_within_a_minute() -> None:
    """Until it is noticed, and then until a collective that waits for it is ended."""
    assert connections.CUT_OFF + control.GRACE < 60
    peer = socket.socket()
    with peer:
        connections.keep_alive(peer)
        noticed = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        noticed *= peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
    assert noticed + connections.IDLE == connections.CUT_OFF


def test_another_key_is_refused() -> None:
    joined: list[Connection] = []
    with connections.listen("127.0.0.1") as server:
        joining(server.getsockname(), b"x" * 32, joined)
        with pytest.raises(BackendMissing, match="rank 1 of 2 did not connect within 2 seconds"):
            connections.accept(server, 2, KEY, seconds=2)
    assert joined == []
