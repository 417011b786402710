"""Ranks killed at random moments: every run resumes, on other numbers of ranks, and ends the same.

pytest -n 0 --long tests/backends/parallel/test_kills.py
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.backend_fixtures import require_backend
from tests.support.processes import PATIENCE_SECONDS, gone
from tests.support.ranks import done, left, start, workers_of

KILLS = 20
#: Methods, and their teachers' weights.
CASES = (
    ("opsd", "initial"), ("opsd", "ema"), ("grpo", "initial"), ("hybrid", "ema"),
    ("sft", "initial"),
)  # fmt: skip
STEPS = 4
#: Times that a kill is tried at another moment, where the run had ended before it.
TRIES = 5


def words(method: str, teacher: str) -> tuple[str, ...]:
    settings = (
        f"method={method}", f"teacher.weights={teacher}", "teacher.ema_decay=0.5",
        f"train.steps={STEPS}", "train.questions_per_step=5", "train.checkpoint_every=1",
        "train.evaluate_every=2", "train.reduce=exact", "data.test_problems=6",
        "data.validation_problems=5", "preflight.enabled=false", "sampling.max_new_tokens=24",
        "rollouts.per_question=2", "lora.dropout=0.1",
    )  # fmt: skip
    return ("train", "--quiet", "--backend", "cpu", *(f"--set={each}" for each in settings))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, Any]]:
    """What runs leave that were never killed, of one process each."""
    require_backend("cpu")
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def of(method: str, teacher: str) -> dict[str, Any]:
        done(folder, *words(method, teacher), "--out", f"{method}-{teacher}")
        return left(folder / f"{method}-{teacher}")

    return of


def killed(run: Path, chosen: random.Random, size: int, case: tuple[str, str]) -> bool:
    """Start a run and kill one of its ranks; False if the run ended before that."""
    process = start(run.parent, *words(*case), "--devices", str(size), "--out", run.name)
    workers = workers_of(process, size - 1)
    step = chosen.randrange(STEPS)
    moment = run / "checkpoints" / (f"step-{step:06}" if step else "")
    while not moment.is_dir() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(chosen.uniform(0, 2))
    number = chosen.randrange(size)
    if process.poll() is None:
        victim = workers[number - 1] if number else psutil.Process(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just ended
            victim.kill()
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert all(gone(worker.pid) for worker in workers)
    if process.returncode > 0:
        assert "error: rank " in error and "Traceback" not in error, error
    return process.returncode != 0 and not (run / "result.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_whose_ranks_are_killed_ends_as_one_that_was_not(
    whole: Callable[[str, str], dict[str, Any]], tmp_path: Path, number: int
) -> None:
    chosen = random.Random(number)
    case = CASES[number % len(CASES)]
    size = chosen.choice((2, 4))
    runs = (tmp_path / f"run{attempt}" for attempt in range(TRIES))
    run = next((each for each in runs if killed(each, chosen, size, case)), None)
    assert run is not None, "every run had ended before its rank was killed"
    more = () if number % 3 == 0 else ("--devices", str(6 - size))
    done(tmp_path, "train", "--quiet", "--resume", "--out", run.name, *more)
    assert left(run) == whole(*case)
