"""The supervisor of the workers: deadlines, crashes, start-up, number and end of processes.

The workers of these tests are short scripts without math-verify, so that they behave the same in
every run.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opsd_cli.errors import OpsdError
from opsd_cli.grading import pool as pool_module
from opsd_cli.grading.pool import Pool
from tests.support.processes import gone

#: Says its process id when asked "who", and otherwise does as the answer says.
FAKE = """
import json, os, sys, time
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    answer = json.loads(line)["answer"]
    if answer == "hang":
        time.sleep(1000)
    if answer == "die":
        os._exit(3)
    if answer == "cut":
        print('{"stat', end="", flush=True)
        os._exit(0)
    status = str(os.getpid()) if answer == "who" else answer
    print(json.dumps({"status": status}), flush=True)
"""
#: A deadline that is to be missed, and one that is not, however busy the machine.
SHORT, LONG = 0.3, 3600.0


def fake(script: str = FAKE) -> list[str]:
    return [sys.executable, "-c", script]


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(1, fake())
    yield made
    made.close()


def ask(pool: Pool, *answers: str, seconds: float = LONG) -> list[str]:
    return pool.statuses([("gold", answer) for answer in answers], seconds)


def test_statuses_come_in_the_order_of_the_pairs() -> None:
    answers = [str(i) for i in range(50)]
    pool = Pool(3, fake())
    try:
        assert ask(pool, *answers) == answers
    finally:
        pool.close()


def test_workers_stay_warm_between_calls(pool: Pool) -> None:
    assert ask(pool, "who") == ask(pool, "who")


def test_a_missed_deadline_kills_the_worker(pool: Pool) -> None:
    [pid] = ask(pool, "who")
    assert ask(pool, "hang", seconds=SHORT) == ["timeout"]
    assert gone(int(pid))


def test_a_missed_deadline_affects_no_other_pair(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    HANGING = 1
    real = Pool._next_event

    def next_event(self: Pool) -> tuple[Any, str | None]:
        for worker in self._workers:
            if worker.task == HANGING:  # only the deadline of this pair passes
                return worker, "timeout"
        return real(self)

    monkeypatch.setattr(Pool, "_next_event", next_event)
    assert ask(pool, "before", "hang", "after") == ["before", "timeout", "after"]


@pytest.mark.parametrize("death", ["die", "cut"])
def test_a_worker_that_dies_is_a_crash_of_its_pair_only(pool: Pool, death: str) -> None:
    assert ask(pool, death, "after") == ["crashed", "after"]


def test_a_worker_that_died_between_calls_is_replaced(pool: Pool) -> None:
    [pid] = ask(pool, "who")
    os.kill(int(pid), signal.SIGKILL)
    assert gone(int(pid))
    assert ask(pool, "right") == ["right"]


def test_start_up_does_not_count_towards_the_deadline(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the pool's clock the start takes twice the deadline."""
    now = 0.0
    monkeypatch.setattr(pool_module, "START_UP_SECONDS", 3 * LONG)
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: now))
    real = Pool._next_event

    def next_event(self: Pool) -> tuple[Any, str | None]:
        nonlocal now
        worker, message = real(self)
        if message == "ready":
            now = 2 * LONG
        return worker, message

    monkeypatch.setattr(Pool, "_next_event", next_event)
    assert ask(pool, "right") == ["right"]


def test_the_number_of_workers(tmp_path: Path) -> None:
    # None answers before two were asked.
    both = (
        "from pathlib import Path\n"
        f"here = Path({str(tmp_path)!r})\n"
        "def gather():\n"
        "    (here / str(os.getpid())).touch()\n"
        "    while len(list(here.iterdir())) < 2: time.sleep(0.01)\n"
    )
    start = FAKE.index("print(")
    slow = FAKE[:start] + both + FAKE[start:].replace('"who" else', '"who" and not gather() else')
    pool = Pool(2, fake(slow))
    try:
        assert len(set(ask(pool, *["who"] * 60))) == 2
    finally:
        pool.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_few_pairs_start_one_worker() -> None:
    pool = Pool(4, fake())
    try:
        assert len(set(ask(pool, *["who"] * pool_module.MIN_PAIRS_PER_WORKER))) == 1
    finally:
        pool.close()


def test_a_worker_is_replaced_after_its_maximum_of_pairs(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "PAIRS_PER_WORKER", 3)
    pids = ask(pool, *["who"] * 6)
    assert len(set(pids[:3])) == len(set(pids[3:])) == 1
    assert pids[0] != pids[3]


def test_a_worker_that_cannot_start_is_an_error_with_its_reason() -> None:
    pool = Pool(1, fake("raise ImportError('no module named math_verify')"))
    with pytest.raises(OpsdError, match="could not be started: ImportError: no module"):
        ask(pool, "right")


def test_a_missing_interpreter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OpsdError, match="could not be started"):
        ask(Pool(1, [str(tmp_path / "python")]), "right")


def test_close_ends_the_workers_and_the_next_call_starts_new_ones(pool: Pool) -> None:
    [pid] = ask(pool, "who")
    pool.close()
    assert gone(int(pid))
    assert ask(pool, "right") == ["right"]


def test_garbage_collection_ends_the_workers() -> None:
    pool = Pool(1, fake())
    [pid] = ask(pool, "who")
    del pool
    gc.collect()
    assert gone(int(pid))


def test_an_interrupted_call_ends_the_busy_workers(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    [pid] = ask(pool, "who")

    def interrupt(self: Pool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pool, "_next_event", interrupt)
        ask(pool, "hang")
    assert gone(int(pid))
    assert ask(pool, "right") == ["right"]


def test_threads_may_share_a_pool(pool: Pool) -> None:
    found: dict[int, list[str]] = {}

    def work(i: int) -> None:
        found[i] = ask(pool, f"a{i}", f"b{i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [f"a{i}", f"b{i}"] for i in range(8)}


def test_a_request_larger_than_a_pipe_to_a_worker_that_does_not_read_times_out() -> None:
    deaf = Pool(1, fake(FAKE.partition("for line")[0] + "time.sleep(1000)"))
    try:
        assert ask(deaf, "1" * 500_000, seconds=SHORT) == ["timeout"]
    finally:
        deaf.close()


def test_no_worker_outlives_a_killed_parent() -> None:
    script = (
        "import os, signal\nfrom opsd_cli.grading.pool import Pool\n"
        f"pool = Pool(1, {fake()!r})\n"
        "print(pool.statuses([('', 'who')], 3600.0)[0], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(pool_module.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert gone(int(done.stdout))
