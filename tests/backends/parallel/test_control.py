"""A rank that fails while the others wait for it in a collective ends the run with its error."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends.parallel import control
from backends.parallel.control import Workers
from backends.parallel.messages import Done, Failed
from opsd_cli.errors import TrainingError

FAILURE = Failed("TrainingError", "memory ran out", "lower train.micro_batch_tokens", "")
Opened = Callable[[bool], tuple[Any, Workers]]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Workers with one connection, and its other end."""
    made: list[Workers] = []

    def open_(lockstep: bool) -> tuple[Any, Workers]:
        ours, theirs = multiprocessing.Pipe()
        workers = Workers({1: ours}, {1: "rank 1 of 2"}, "127.0.0.1")  # type: ignore[dict-item]
        workers.lockstep = lockstep
        made.append(workers)
        return theirs, workers

    yield open_
    for workers in made:
        workers.close()


def test_a_failure_ends_a_rank_that_waits_for_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    over = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        over.set()

    monkeypatch.setattr(control, "GRACE", 0.0)
    monkeypatch.setattr(os, "_exit", leave)
    theirs, _ = opened(True)
    theirs.send(FAILURE)
    assert over.wait(30)
    assert codes == [TrainingError("", "").exit_code]
    assert capsys.readouterr().err.startswith("error: rank 1 of 2: memory ran out\nhint: lower")


def test_a_failure_elsewhere_is_the_cause_where_ranks_compute_together(opened: Opened) -> None:
    def collective() -> None:
        raise RuntimeError("connection closed by peer")

    for lockstep, expected in ((True, TrainingError), (False, RuntimeError)):
        theirs, workers = opened(lockstep)
        theirs.send(FAILURE)
        with pytest.raises(expected):
            workers.call("accumulate", lambda rank: (), collective, lambda rank, news: None)


def test_an_error_of_rank_0_does_not_wait_for_those_that_wait_for_it(opened: Opened) -> None:
    def own() -> None:
        raise TrainingError("memory ran out", "")

    _, workers = opened(True)
    with pytest.raises(TrainingError, match="memory ran out"):
        workers.call("accumulate", lambda rank: (), own, lambda rank, news: None)


def test_results_of_a_call_on_all_ranks(opened: Opened) -> None:
    theirs, workers = opened(False)
    theirs.send(Done(2, 0.5))
    result, others = workers.call("add_up", lambda rank: (), lambda: 1, lambda rank, news: None)
    assert (result, others[1].value) == (1, 2)
