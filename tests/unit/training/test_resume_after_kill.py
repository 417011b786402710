"""A run killed at any rollout, measurement or write ends as one that was not, once resumed."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from opsd_cli.training import run_directory
from tests.support.training_runs import (
    ROLLOUTS_OF_A_RUN,
    Killed,
    KilledAfter,
    begin,
    learner,
    resume,
    run_contents,
    run_until_killed,
)


@pytest.mark.parametrize("rollouts", range(0, ROLLOUTS_OF_A_RUN, 13))
def test_resume_after_a_kill_at_any_rollout_equals_an_unkilled_run(
    tmp_path: Path, finished_run: Path, rollouts: int
) -> None:
    """Preflight, base, validations, steps and final test; result.json and the ledger included."""
    directory = tmp_path / "run"
    run_until_killed(directory, KilledAfter(rollouts))
    run_until_killed(directory, KilledAfter(rollouts // 2))  # and again, elsewhere
    resume(directory)
    assert run_contents(directory) == run_contents(finished_run)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5, 6])
def test_resume_between_evaluations_counts_each_once_in_the_ledger(
    tmp_path: Path, finished_run: Path, evaluations: int
) -> None:
    directory = tmp_path / "run"
    run_until_killed(directory, KilledAfter(evaluations=evaluations))
    resume(directory)
    assert run_contents(directory) == run_contents(finished_run)


@pytest.mark.parametrize("rollouts", [10, 40, 80, 120, 200, 250])
def test_resume_counts_each_teacher_analysis_once_in_the_ledger(
    tmp_path: Path, rollouts: int
) -> None:
    """With `teacher.reason_first` a resumed run once wrote every analysis again."""
    policy = learner()
    begin(tmp_path / "whole", "teacher.reason_first=true", policy=policy)
    with contextlib.suppress(Killed):
        run_until_killed(tmp_path / "run", KilledAfter(rollouts), "teacher.reason_first=true")
    resume(tmp_path / "run")
    assert run_contents(tmp_path / "run") == run_contents(tmp_path / "whole")


def test_resume_seals_a_result_that_a_kill_left_unsealed(
    tmp_path: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    seals = tmp_path / "run" / run_directory.SEALS
    sealed = json.loads(seals.read_text())
    seals.write_text(
        json.dumps({name: sealed[name] for name in (run_directory.CONFIG, run_directory.PREFLIGHT)})
    )
    (tmp_path / "run" / "..seals.json.partial").write_text('{"conf')
    resume(tmp_path / "run")
    assert json.loads(seals.read_text()).keys() == sealed.keys()
    assert not list((tmp_path / "run").glob(".*.partial"))
