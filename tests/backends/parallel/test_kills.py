"""Ranks killed at random moments: every run resumes, on other numbers of ranks, and ends the same.

pytest -n 0 --long tests/backends/parallel/test_kills.py
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.backend_fixtures import require_backend
from tests.support.processes import PATIENCE_SECONDS, gone
from tests.support.ranks import done, left, start, workers_of

KILLS = 20
METHODS = ("opsd", "grpo", "hybrid", "sft")


def words(method: str) -> tuple[str, ...]:
    settings = (
        f"method={method}", "train.steps=4", "train.questions_per_step=5",
        "train.checkpoint_every=1", "train.evaluate_every=2", "train.reduce=exact",
        "data.test_problems=6", "data.validation_problems=5", "preflight.enabled=false",
        "sampling.max_new_tokens=24", "rollouts.per_question=2", "lora.dropout=0.1",
    )  # fmt: skip
    return ("train", "--quiet", "--backend", "cpu", *(f"--set={each}" for each in settings))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What runs leave that were never killed, of one process each."""
    require_backend("cpu")
    folder = tmp_path_factory.mktemp("whole")
    for method in METHODS:
        done(folder, *words(method), "--out", method)
    return {method: left(folder / method) for method in METHODS}


@pytest.mark.long
@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_whose_ranks_are_killed_ends_as_one_that_was_not(
    whole: dict[str, dict[str, Any]], tmp_path: Path, number: int
) -> None:
    chosen = random.Random(number)
    method = METHODS[number % len(METHODS)]
    run = tmp_path / "run"
    size = chosen.choice((2, 4))
    process = start(tmp_path, *words(method), "--devices", str(size), "--out", "run")
    workers = workers_of(process)
    while not (run / "checkpoints").is_dir() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(chosen.uniform(0, 6))
    victim = chosen.choice([psutil.Process(process.pid), *workers])
    if victim.is_running():
        victim.kill()
    _, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert all(gone(worker.pid) for worker in workers)
    if process.returncode > 0:
        assert "error: rank " in error and "Traceback" not in error, error
    more = () if number % 3 == 0 else ("--devices", str(6 - size))
    done(tmp_path, "train", "--quiet", "--resume", "--out", "run", *more)
    assert left(run) == whole[method]
