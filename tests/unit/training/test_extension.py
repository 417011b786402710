"""More steps for a finished run: what is the same as in a longer run, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import Interrupted, RunError
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from opsd_cli.training.extension import extend
from opsd_cli.training.layout import EXTENSION
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy, StopAfter
from tests.support.small_problems import SPLITS
from tests.support.training_runs import begin, learner, resume, run_contents

CONSTANT = "optimizer.schedule=constant"


@contextmanager
def extended(directory: Path, steps: int) -> Iterator[tuple[Run, str]]:
    """An open run that was extended, and what is said of its learning rate."""
    with Run.resume(directory) as run:
        result = run.result()
        reached = None if result is None else result["steps"]
        run.config, told = extend(directory, run.config, reached, steps)
        yield run, told


def extend_and_train(directory: Path, steps: int, **more: Any) -> str:
    with extended(directory, steps) as (run, told):
        train(learner(), SPLITS, run, **more)
    return told


def test_extended_run_is_the_longer_run_where_the_rate_does_not_depend_on_the_steps(
    tmp_path: Path,
) -> None:
    begin(tmp_path / "run", CONSTANT)
    short = json.loads((tmp_path / "run" / run_directory.RESULT).read_text())
    assert "goes on as its schedule says" in extend_and_train(tmp_path / "run", 10)
    begin(tmp_path / "long", CONSTANT, "train.steps=10")
    ours, theirs = run_contents(tmp_path / "run"), run_contents(tmp_path / "long")
    for contents in (ours, theirs):
        for row in contents["metrics.jsonl"]:
            del row["ledger"], row["steps"]  # the run of 6 steps also measured its end
    assert ours["metrics.jsonl"] == theirs["metrics.jsonl"]
    assert ours["rollouts.jsonl"] == theirs["rollouts.jsonl"]
    assert json.loads((tmp_path / "run" / run_directory.RESULT).read_text())["steps"] == 10
    kept = tmp_path / "run" / "step-000006-result.json"
    assert json.loads(kept.read_text()) == short


def test_extended_run_says_where_its_schedule_is_not_that_of_the_longer_run(tmp_path: Path) -> None:
    begin(tmp_path / "run", "optimizer.schedule=cosine", "optimizer.schedule_steps=null")
    told = extend_and_train(tmp_path / "run", 12)
    assert "over 12 steps it goes on from" in told and "not the same as a run" in told


def test_extended_run_that_is_stopped_resumes_to_its_new_end(
    finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    stop = StopAfter(8)
    with pytest.raises(Interrupted):
        extend_and_train(tmp_path / "run", 12, listener=stop, stop=stop)
    assert resume(tmp_path / "run").steps == 12
    with Run.resume(tmp_path / "run") as run:  # whole, and finished
        assert run.result() is not None and not run.notes


def test_extended_run_goes_back_to_an_earlier_checkpoint_and_to_its_new_end(
    finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    extend_and_train(tmp_path / "run", 8)
    assert resume(tmp_path / "run", 4).steps == 8


def test_run_that_was_killed_while_it_was_extended_is_whole_without_it(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("opsd_cli.training.extension.seal", killed)
    with pytest.raises(KeyboardInterrupt), extended(tmp_path / "run", 12):
        pass
    monkeypatch.undo()
    assert (tmp_path / "run" / EXTENSION).exists()
    policy = FakePolicy()
    assert resume(tmp_path / "run", policy=policy).steps == 6 and not policy.drawn
    extend_and_train(tmp_path / "run", 7)
    assert resume(tmp_path / "run").steps == 7


@pytest.mark.parametrize(
    ("reached", "steps", "said"),
    [(6, 6, "finished its 6 steps"), (6, 3, "finished its 6 steps"), (4, 9, "ended at step 4 of 6"),
     (None, 9, "has not finished")],
)  # fmt: skip
def test_run_is_not_extended(
    finished_run: Path, tmp_path: Path, reached: int | None, steps: int, said: str
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    with Run.resume(tmp_path / "run") as run, pytest.raises(RunError, match=said) as refused:
        extend(run.directory, run.config, reached, steps)
    assert refused.value.hint and not (tmp_path / "run" / EXTENSION).exists()


def test_listener_of_an_extended_run_gets_the_new_number_of_steps(
    finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    steps = []

    class Rows(Listener):
        def step(self, row: Any) -> None:
            steps.append((row.step, row.steps))

    extend_and_train(tmp_path / "run", 8, listener=Rows())
    assert steps == [(7, 8), (8, 8)]
