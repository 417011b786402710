"""Resume from checkpoints: damaged, missing, half renamed, of an earlier step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from opsd_cli.errors import RunError
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.small_problems import SPLITS
from tests.support.training_runs import (
    begin,
    flip_bit,
    learner,
    resume,
    run_contents,
    truncate_file,
)


def test_resume_refuses_a_run_without_its_checkpoints(stopped_run: Path) -> None:
    shutil.rmtree(stopped_run / "checkpoints")
    with pytest.raises(RunError, match="lost its checkpoints"):
        resume(stopped_run)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_bit(folder / "adapter_model.safetensors"),
        lambda folder: flip_bit(folder / "state.json"),
        lambda folder: flip_bit(folder / "manifest.json"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: truncate_file(folder / "state.json", 0.3),
        lambda folder: (folder / "adapter_config.json").write_text(""),
    ],
)
def test_resume_falls_back_from_a_damaged_checkpoint_to_the_one_before(
    stopped_run: Path, finished_run: Path, damage: Callable[[Path], None]
) -> None:
    damage(stopped_run / "checkpoints" / "step-000004")
    with Run.resume(stopped_run) as run:
        assert run.state()["step"] == 2
        assert any("step 4 is damaged" in note and "step 2" in note for note in run.notes)
        train(learner(), SPLITS, run)
    shutil.rmtree(stopped_run / "checkpoints" / "damaged-step-000004")
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_resume_refuses_when_every_checkpoint_is_damaged(stopped_run: Path) -> None:
    for folder in (stopped_run / "checkpoints").iterdir():
        flip_bit(folder / "adapter_model.safetensors")
    with pytest.raises(RunError, match=r"no checkpoint of .* is whole") as caught:
        resume(stopped_run)
    assert "adapter_model.safetensors is not what was written" in caught.value.message
    assert len(list((stopped_run / "checkpoints").glob("step-*"))) == 3


def test_resume_from_a_step(stopped_run: Path, finished_run: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint of step 3") as caught:
        resume(stopped_run, step=3)
    assert "0, 2, 4" in caught.value.hint
    with Run.resume(stopped_run, 2) as run:
        assert run.state()["step"] == 2
        train(learner(), SPLITS, run)
    shutil.rmtree(stopped_run / "checkpoints" / "later-step-000004")
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_resume_from_a_step_of_a_finished_run(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    resume(tmp_path / "run", step=4)
    assert (tmp_path / "run" / "later-result.json").exists()
    (tmp_path / "run" / "later-result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "later-step-000006")
    assert run_contents(tmp_path / "run") == run_contents(finished_run)


def test_resume_recovers_a_checkpoint_whose_rename_was_interrupted(
    stopped_run: Path, finished_run: Path
) -> None:
    folder = stopped_run / "checkpoints"
    (folder / "step-000004").rename(folder / ".step-000004")
    (folder / "step-000002").rename(folder / ".step-000002.old")
    with Run.resume(stopped_run) as run:
        assert run.state()["step"] == 4 and not run.notes
        train(learner(), SPLITS, run)
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_logs_are_synced_before_the_checkpoint_that_refers_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    from opsd_cli.files import jsonl_log
    from opsd_cli.training import checkpoints

    real = jsonl_log.Log.sync
    monkeypatch.setattr(
        jsonl_log.Log, "sync", lambda self: (order.append(self.path.name), real(self))[1]
    )
    write = checkpoints.Checkpoints.write
    monkeypatch.setattr(
        checkpoints.Checkpoints,
        "write",
        lambda self, *rest: (order.append("checkpoint"), write(self, *rest))[1],
    )
    begin(tmp_path / "run")
    first = order.index("checkpoint")
    assert set(order[:first]) == set(run_directory.LOGS)
    assert order.count("checkpoint") * len(run_directory.LOGS) <= len(order) - order.count(
        "checkpoint"
    )


def test_resume_removes_an_old_checkpoint_that_a_kill_left(tmp_path: Path) -> None:
    """The kill came after a checkpoint was written and before the older one was removed."""
    begin(tmp_path / "run", "train.keep_checkpoints=1")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-000006", folder / "step-000004")
    (tmp_path / "run" / run_directory.RESULT).unlink()
    resume(tmp_path / "run")
    assert [path.name for path in folder.iterdir()] == ["step-000006"]
