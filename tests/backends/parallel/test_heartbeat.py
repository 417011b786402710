"""A worker whose process is suspended keeps its connection, and is given up all the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import psutil
import pytest

from backends.parallel.control import Workers
from backends.parallel.messages import Partial, Ping, Pong
from backends.parallel.ranks import opened
from opsd_cli.errors import TrainingError
from tests.support.backend_fixtures import require_backend
from tests.support.processes import gone


@pytest.fixture
def pipe() -> Iterator[tuple[Workers, object]]:
    """Workers with one connection, given up after 0.24 seconds, and its other end."""
    ours, theirs = multiprocessing.Pipe()
    workers = Workers({1: ours}, {1: "rank 1 of 2"}, "127.0.0.1", silence=0.24)  # type: ignore[dict-item]
    yield workers, theirs
    workers.close()


def test_a_worker_that_does_not_answer_is_given_up(pipe: tuple[Workers, object]) -> None:
    workers, _ = pipe
    with pytest.raises(TrainingError, match=r"rank 1 of 2 is lost: it has not answered for 0\.24"):
        workers.receive()
    assert workers.broken


def test_a_worker_that_answers_is_waited_for(pipe: tuple[Workers, object]) -> None:
    """Also if its result takes longer than it has for an answer."""
    workers, theirs = pipe
    limit = 60

    def answer() -> None:
        for _ in range(limit):
            assert isinstance(theirs.recv(), Ping)  # type: ignore[attr-defined]
            theirs.send(Pong())  # type: ignore[attr-defined]
        theirs.send(Partial("late"))  # type: ignore[attr-defined]

    threading.Thread(target=answer, daemon=True).start()
    assert workers.receive() == (1, Partial("late"))


def test_a_suspended_worker_is_given_up_and_ended() -> None:
    require_backend("cpu")
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    with opened(2, silence=6.0) as workers:
        assert workers is not None
        (worker,) = [c.pid for c in me.children() if c.pid not in before]
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(TrainingError, match="not answered for 6 seconds; it may be suspended"):
            workers.receive()
    assert gone(worker)
