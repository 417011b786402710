"""Resume of a finished run: nothing is sampled, and a damaged result is rebuilt from the logs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from tests.support.fakes import FakePolicy
from tests.support.training_runs import (
    flip_bit,
    resume,
    run_contents,
    truncate_file,
)


def test_resume_of_a_finished_run_changes_nothing_and_draws_nothing(
    tmp_path: Path, finished_run: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    policy = FakePolicy(skill=0.9)
    result = resume(tmp_path / "run", policy=policy)
    assert not policy.drawn
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    lock = tmp_path / "run" / run_directory.LOCK
    assert before | {lock: after[lock]} == after
    assert result.as_dict() == json.loads((finished_run / run_directory.RESULT).read_text())


@pytest.mark.parametrize("damage", [flip_bit, lambda p: truncate_file(p, 0.5), Path.unlink])
def test_resume_rebuilds_a_damaged_result_from_the_logs(
    tmp_path: Path, finished_run: Path, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    damage(tmp_path / "run" / run_directory.RESULT)
    policy = FakePolicy()
    resume(tmp_path / "run", policy=policy)
    assert not policy.drawn
    assert run_contents(tmp_path / "run") == run_contents(finished_run)
    with Run.resume(tmp_path / "run") as run:  # and is whole from then on
        assert run.result() is not None and not run.notes
