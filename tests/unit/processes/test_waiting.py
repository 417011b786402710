"""Waits that Ctrl-C ends: order, results, errors."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from opsd_cli.processes.waiting import as_finished, result_of, until_done


def test_an_interruptible_wait_gives_the_jobs_in_the_order_in_which_they_end() -> None:
    first_may_end = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(first_may_end.wait)
        quick = pool.submit(int)
        jobs = as_finished([slow, quick])
        assert next(jobs) is quick
        first_may_end.set()
        assert list(jobs) == [slow]


def test_an_interruptible_wait_raises_the_error_of_its_job() -> None:
    failed: Future[int] = Future()
    failed.set_exception(KeyError("a"))
    until_done(failed)
    with pytest.raises(KeyError):
        result_of(failed)
