"""Resume with logs that are missing, truncated, changed or torn, or with a changed config."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opsd_cli.errors import RunError
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from tests.support.training_runs import (
    flip_bit,
    resume,
    run_contents,
    truncate_file,
)


@pytest.mark.parametrize(
    "log", [run_directory.METRICS, run_directory.ROLLOUTS, run_directory.EVALUATIONS]
)
@pytest.mark.parametrize("loss", ["missing", "cut", "changed"])
def test_resume_refuses_a_damaged_log(stopped_run: Path, log: str, loss: str) -> None:
    {"missing": Path.unlink, "cut": lambda p: truncate_file(p, 0.5), "changed": flip_bit}[loss](
        stopped_run / log
    )
    before = run_contents(stopped_run / "checkpoints")
    with pytest.raises(RunError, match=log) as caught:
        resume(stopped_run)
    assert caught.value.hint
    # Nothing was truncated, renamed or measured.
    assert run_contents(stopped_run / "checkpoints") == before


def test_resume_from_a_step_before_the_damaged_log(stopped_run: Path, finished_run: Path) -> None:
    (stopped_run / run_directory.METRICS).unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl is missing") as caught:
        resume(stopped_run)
    assert "--resume-from 0" in caught.value.hint
    resume(stopped_run, step=0)
    shutil.rmtree(stopped_run / "checkpoints" / "later-step-000002")
    shutil.rmtree(stopped_run / "checkpoints" / "later-step-000004")
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_resume_never_measures_base_accuracy_with_trained_weights(stopped_run: Path) -> None:
    """Without evaluations.jsonl a resumed run once took the trained accuracy for the base's."""
    for path in (stopped_run / "checkpoints").glob("*/manifest.json"):
        path.unlink()  # as an earlier version left it: no manifest mentions the log
    (stopped_run / run_directory.SEALS).unlink()
    (stopped_run / run_directory.EVALUATIONS).unlink()
    with pytest.raises(RunError, match="before the first step"):
        resume(stopped_run)


def test_resume_refuses_a_changed_config(stopped_run: Path) -> None:
    path = stopped_run / run_directory.CONFIG
    path.write_text(path.read_text().replace("learning_rate: 5e-06", "learning_rate: 5e-03"))
    with pytest.raises(RunError, match=r"config\.yaml was changed"):
        resume(stopped_run)


def test_resume_cuts_a_log_torn_inside_a_character(stopped_run: Path, finished_run: Path) -> None:
    with (stopped_run / run_directory.ROLLOUTS).open("ab") as log:
        log.write('{"step": 5, "completion": "é'.encode()[:-1])
    resume(stopped_run)
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_resume_replaces_a_damaged_environment_file(stopped_run: Path) -> None:
    (stopped_run / run_directory.ENVIRONMENT).write_text('{"opsd":')
    with Run.resume(stopped_run) as run:
        assert run.environment() is None
        run.add_environment({"opsd": "2"})
        assert run.environment()["later"] == [{"opsd": "2"}]  # type: ignore[index]


def test_resume_names_the_process_that_locks_the_run(stopped_run: Path) -> None:
    import os

    with (
        Run.resume(stopped_run),
        pytest.raises(RunError, match=rf"another process \(pid {os.getpid()}\)"),
    ):
        Run.resume(stopped_run)
