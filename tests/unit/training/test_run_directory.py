"""Run directories: refused if used, locked while open, consistent after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import RunError
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run, best_checkpoint, read_rows


def save_adapter(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"weights")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", resolve(), {"python": "3"})


def test_resume_opens_a_new_run_with_the_same_config(run: Run) -> None:
    run.close()
    with Run.resume(run.directory) as again:
        assert again.config == run.config
        assert again.latest() is None


def test_run_creation_refuses_a_used_directory_with_three_hints(run: Run) -> None:
    run.close()
    with pytest.raises(RunError) as caught:
        Run.create(run.directory, run.config, {})
    for way in ("--resume", "another --out", "move it"):
        assert way in caught.value.hint


def test_run_creation_refuses_a_directory_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(RunError, match="not empty"):
        Run.create(tmp_path, resolve(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_run_lock_refuses_a_second_process(run: Run) -> None:
    with pytest.raises(RunError, match="another process"):
        Run.resume(run.directory)


def test_resume_refuses_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        Run.resume(tmp_path)


def test_checkpoint_write_is_atomic(run: Run) -> None:
    run.write_checkpoint(1, save_adapter, {"step": 1})

    def killed(folder: Path) -> None:
        save_adapter(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.write_checkpoint(2, killed, {"step": 2})
    assert run.latest() == run.checkpoint_path(1)
    run.close()
    with Run.resume(run.directory) as again:
        names = [path.name for path in (again.directory / "checkpoints").iterdir()]
        assert names == ["step-000001"]
        assert again.state() == {"step": 1}


def test_checkpoint_of_the_same_step_is_replaced(run: Run) -> None:
    run.write_checkpoint(1, save_adapter, {"step": 1, "validations_without_improvement": 0})
    run.write_checkpoint(1, save_adapter, {"step": 1, "validations_without_improvement": 2})
    assert run.state()["validations_without_improvement"] == 2


def test_checkpoint_pruning_keeps_the_newest_and_the_best(run: Run) -> None:
    for step in range(5):
        run.write_checkpoint(step, save_adapter, {"step": step})
    run.mark_best(1)
    run.prune(2, {1})
    left = sorted(path.name for path in (run.directory / "checkpoints").iterdir())
    assert left == ["step-000001", "step-000003", "step-000004"]
    assert best_checkpoint(run.directory) == run.checkpoint_path(1)


def test_resume_truncates_the_logs_to_the_checkpoint(run: Run) -> None:
    for step in range(1, 6):
        run.append(run_directory.METRICS, {"step": step})
    run.write_checkpoint(3, save_adapter, {"step": 3})
    run.close()
    with Run.resume(run.directory) as again:
        assert [row["step"] for row in again.rows(run_directory.METRICS)] == [1, 2, 3]


def test_log_reader_skips_a_torn_last_line(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert list(read_rows(log)) == [{"step": 1}]


def test_default_run_directories_never_collide(tmp_path: Path) -> None:
    config = resolve()
    made = {run_directory.make_default_directory(config, tmp_path) for _ in range(3)}
    assert len(made) == 3 and all(path.is_dir() for path in made)


def test_run_that_fails_before_its_first_checkpoint_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run.create(tmp_path / "run", resolve(), {}) as run:
        run.append(run_directory.EVALUATIONS, {"step": 0})
        1 / 0  # noqa: B018
    assert not (tmp_path / "run").exists()


def test_run_that_fails_after_a_checkpoint_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run.create(tmp_path / "run", resolve(), {}) as run:
        run.write_checkpoint(0, save_adapter, {"step": 0})
        1 / 0  # noqa: B018
    assert (tmp_path / "run" / "checkpoints" / "step-000000").is_dir()
