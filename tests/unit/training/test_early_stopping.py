"""Early stopping: patience, ties, and the checkpoint chosen as best."""

from __future__ import annotations

from pathlib import Path

from opsd_cli.training.run_directory import Run
from tests.support.fakes import FakePolicy
from tests.support.training_runs import (
    begin,
)


def test_early_stop_by_patience_keeps_the_checkpoint_that_it_reports(tmp_path: Path) -> None:
    result = begin(
        tmp_path / "run",
        "train.patience=1", "train.evaluate_every=1", "train.checkpoint_every=5",
        "preflight.enabled=false",
        policy=FakePolicy(skill=0.9, gain=-0.2),
    )  # fmt: skip
    assert result.steps == 1 and result.best_step == 0
    with Run.resume(tmp_path / "run") as run:
        assert run.state()["step"] == 1


def test_early_stop_counts_a_tie_as_no_improvement(tmp_path: Path) -> None:
    result = begin(
        tmp_path / "run", "train.patience=2", "train.evaluate_every=1", "preflight.enabled=false",
        policy=FakePolicy(skill=1.0, gain=0.0),
    )  # fmt: skip
    assert result.steps == 2 and result.best_step == 0
