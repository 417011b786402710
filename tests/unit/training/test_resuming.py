"""A run gone on with: what is lost is said, what was made is kept, and no number is made up."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Rollout
from opsd_cli.errors import Interrupted, PreflightFailed, RunError
from opsd_cli.files import whole_files
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import (
    ROLLOUTS_OF_A_RUN,
    Killed,
    KilledAfter,
    StopWithin,
    begin,
    flip_bit,
    learner,
    resume,
    run_config,
    run_contents,
    run_until_killed,
    truncate_file,
)

# -- logs that are lost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "log", [run_directory.METRICS, run_directory.ROLLOUTS, run_directory.EVALUATIONS]
)
@pytest.mark.parametrize("loss", ["missing", "cut", "changed"])
def test_a_log_that_has_lost_something_is_not_gone_on_with(
    stopped_run: Path, log: str, loss: str
) -> None:
    {"missing": Path.unlink, "cut": lambda p: truncate_file(p, 0.5), "changed": flip_bit}[loss](
        stopped_run / log
    )
    before = run_contents(stopped_run / "checkpoints")
    with pytest.raises(RunError, match=log) as caught:
        resume(stopped_run)
    assert caught.value.hint
    assert (
        run_contents(stopped_run / "checkpoints") == before
    )  # nothing was cut, renamed or measured


def test_going_back_to_a_step_that_does_not_need_the_lost_log(
    stopped_run: Path, finished_run: Path
) -> None:
    (stopped_run / run_directory.METRICS).unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl is missing") as caught:
        resume(stopped_run)
    assert "--resume-from 0" in caught.value.hint
    resume(stopped_run, step=0)
    shutil.rmtree(stopped_run / "checkpoints" / "later-step-000002")
    shutil.rmtree(stopped_run / "checkpoints" / "later-step-000004")
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_base_is_never_measured_with_trained_weights(stopped_run: Path) -> None:
    """Without the evaluations a resumed run once took the trained accuracy for the base's."""
    for path in (stopped_run / "checkpoints").glob("*/manifest.json"):
        path.unlink()  # as an earlier version left it: nothing tells that the log was there
    (stopped_run / run_directory.SEALS).unlink()
    (stopped_run / run_directory.EVALUATIONS).unlink()
    with pytest.raises(RunError, match="before the first step"):
        resume(stopped_run)


def test_an_edited_config_is_not_gone_on_with(stopped_run: Path) -> None:
    path = stopped_run / run_directory.CONFIG
    path.write_text(path.read_text().replace("learning_rate: 5e-06", "learning_rate: 5e-03"))
    with pytest.raises(RunError, match=r"config\.yaml was changed"):
        resume(stopped_run)


def test_lost_checkpoints_are_not_taken_for_a_new_run(stopped_run: Path) -> None:
    shutil.rmtree(stopped_run / "checkpoints")
    with pytest.raises(RunError, match="lost its checkpoints"):
        resume(stopped_run)


# -- checkpoints that are damaged ------------------------------------------------------------------


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
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    stopped_run: Path, finished_run: Path, damage: Callable[[Path], None]
) -> None:
    damage(stopped_run / "checkpoints" / "step-000004")
    with Run.resume(stopped_run) as run:
        assert run.state()["step"] == 2
        assert any("step 4 is damaged" in note and "step 2" in note for note in run.notes)
        train(learner(), SPLITS, run)
    shutil.rmtree(stopped_run / "checkpoints" / "damaged-step-000004")
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_where_no_checkpoint_is_whole_that_is_said(stopped_run: Path) -> None:
    for folder in (stopped_run / "checkpoints").iterdir():
        flip_bit(folder / "adapter_model.safetensors")
    with pytest.raises(RunError, match=r"no checkpoint of .* is whole") as caught:
        resume(stopped_run)
    assert "adapter_model.safetensors is not what was written" in caught.value.message
    assert len(list((stopped_run / "checkpoints").glob("step-*"))) == 3


def test_resuming_from_a_step(stopped_run: Path, finished_run: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint of step 3") as caught:
        resume(stopped_run, step=3)
    assert "0, 2, 4" in caught.value.hint
    with Run.resume(stopped_run, 2) as run:
        assert run.state()["step"] == 2
        train(learner(), SPLITS, run)
    shutil.rmtree(stopped_run / "checkpoints" / "later-step-000004")
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_a_finished_run_can_go_back_too(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    resume(tmp_path / "run", step=4)
    assert (tmp_path / "run" / "later-result.json").exists()
    (tmp_path / "run" / "later-result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "later-step-000006")
    assert run_contents(tmp_path / "run") == run_contents(finished_run)


def test_a_whole_checkpoint_whose_renaming_was_cut_short_is_recovered(
    stopped_run: Path, finished_run: Path
) -> None:
    folder = stopped_run / "checkpoints"
    (folder / "step-000004").rename(folder / ".step-000004")
    (folder / "step-000002").rename(folder / ".step-000002.old")
    with Run.resume(stopped_run) as run:
        assert run.state()["step"] == 4 and not run.notes
        train(learner(), SPLITS, run)
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_logs_are_on_the_disk_before_the_checkpoint_that_counts_on_them(
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


# -- killed at any moment --------------------------------------------------------------------------


@pytest.mark.parametrize("rollouts", range(0, ROLLOUTS_OF_A_RUN, 13))
def test_a_run_killed_at_any_rollout_ends_as_one_that_never_was(
    tmp_path: Path, finished_run: Path, rollouts: int
) -> None:
    """Preflight, base, validations, steps and the end phase: result.json and ledger included."""
    directory = tmp_path / "run"
    run_until_killed(directory, KilledAfter(rollouts))
    run_until_killed(directory, KilledAfter(rollouts // 2))  # and again, wherever that is
    resume(directory)
    assert run_contents(directory) == run_contents(finished_run)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5, 6])
def test_killed_between_two_measurements_each_is_paid_for_once(
    tmp_path: Path, finished_run: Path, evaluations: int
) -> None:
    directory = tmp_path / "run"
    run_until_killed(directory, KilledAfter(evaluations=evaluations))
    resume(directory)
    assert run_contents(directory) == run_contents(finished_run)


@pytest.mark.parametrize("rollouts", [10, 40, 80, 120, 200, 250])
def test_analyses_are_written_and_paid_for_once(tmp_path: Path, rollouts: int) -> None:
    """A resumed run of a teacher that reasons first once had every analysis written again."""
    policy = learner()
    begin(tmp_path / "whole", "teacher.reason_first=true", policy=policy)
    with contextlib.suppress(Killed):
        run_until_killed(tmp_path / "run", KilledAfter(rollouts), "teacher.reason_first=true")
    resume(tmp_path / "run")
    assert run_contents(tmp_path / "run") == run_contents(tmp_path / "whole")


# -- the end ---------------------------------------------------------------------------------------


def test_resuming_a_finished_run_changes_nothing_and_draws_nothing(
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
def test_a_result_that_is_damaged_is_made_anew_from_the_logs(
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


def test_killed_between_the_result_and_its_seal(tmp_path: Path, finished_run: Path) -> None:
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


def test_an_old_checkpoint_that_a_kill_kept_goes(tmp_path: Path) -> None:
    """Killed after a checkpoint was written and before the one before it was dropped."""
    begin(tmp_path / "run", "train.keep_checkpoints=1")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-000006", folder / "step-000004")
    (tmp_path / "run" / run_directory.RESULT).unlink()
    resume(tmp_path / "run")
    assert [path.name for path in folder.iterdir()] == ["step-000006"]


def test_a_patience_stop_keeps_the_weights_that_it_reports(tmp_path: Path) -> None:
    result = begin(
        tmp_path / "run",
        "train.patience=1", "train.evaluate_every=1", "train.checkpoint_every=5",
        "preflight.enabled=false",
        policy=FakePolicy(skill=0.9, gain=-0.2),
    )  # fmt: skip
    assert result.steps == 1 and result.best_step == 0
    with Run.resume(tmp_path / "run") as run:
        assert run.state()["step"] == 1


def test_a_tie_is_no_improvement(tmp_path: Path) -> None:
    result = begin(
        tmp_path / "run", "train.patience=2", "train.evaluate_every=1", "preflight.enabled=false",
        policy=FakePolicy(skill=1.0, gain=0.0),
    )  # fmt: skip
    assert result.steps == 2 and result.best_step == 0


# -- Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "nth", "step"),
    [
        ("preflight: student", 1, 0),
        ("preflight: teacher", 1, 0),
        ("test (base)", 1, 0),
        ("validation", 1, 0),
        ("rollouts", 2, 1),
        ("validation", 2, 2),
        ("rollouts", 6, 5),
        ("test (final)", 1, 6),
    ],
)
def test_ctrl_c_stops_at_the_next_rollout_and_keeps_what_was_made(
    tmp_path: Path, finished_run: Path, phase: str, nth: int, step: int
) -> None:
    directory = tmp_path / "run"
    stop, policy = StopWithin(phase, 3, nth), learner()
    with pytest.raises(Interrupted) as caught:
        begin(directory, listener=stop, stop=stop, policy=policy)
    assert f"after step {step} of 6" in caught.value.message
    assert f"--resume --out {directory}" in caught.value.hint
    again = learner()
    resume(directory, policy=again)
    if step % 2:  # the checkpoint that stopping made
        shutil.rmtree(directory / "checkpoints" / f"step-{step:06d}")
    assert run_contents(directory) == run_contents(finished_run)
    # A measurement under way is gone on with; the rollouts of a step are drawn again.
    drawn_again = 3 if phase == "rollouts" else 0
    assert len(policy.drawn) + len(again.drawn) == ROLLOUTS_OF_A_RUN + drawn_again


@pytest.mark.parametrize("cut", [False, True])
def test_a_failed_preflight_says_what_its_samples_tell(tmp_path: Path, cut: bool) -> None:
    settings = ["sampling.max_new_tokens=4"] if cut else []
    with pytest.raises(PreflightFailed) as caught:
        begin(tmp_path / "run", *settings, policy=FakePolicy(skill=0.5, taught=0.0))
    assert ("cut off at 4 tokens" in caught.value.message) == cut
    assert ("sampling.max_new_tokens" in caught.value.hint) == cut
    assert "a new run regardless with --set preflight.enabled=false" in caught.value.hint


def test_a_kept_sample_that_was_damaged_is_drawn_again(tmp_path: Path, finished_run: Path) -> None:
    directory = tmp_path / "run"
    stop, policy = StopWithin("test (final)", 6), learner()
    with pytest.raises(Interrupted):
        begin(directory, listener=stop, stop=stop, policy=policy)
    path = directory / run_directory.UNFINISHED
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    lines[2] = lines[2].replace('"tokens": 1', '"tokens": 2')
    lines[4] = lines[4].replace('"correct"', '"corrext"')
    path.write_text("".join(lines))
    again = learner()
    resume(directory, policy=again)
    assert run_contents(directory) == run_contents(finished_run)
    assert len(policy.drawn) + len(again.drawn) == ROLLOUTS_OF_A_RUN + 2


def test_a_second_set_with_the_same_ids_gets_its_own_prompts(tmp_path: Path) -> None:
    """Ids 1 to 20 in both files: the test split was once measured on validation's questions."""
    from dataclasses import replace

    from opsd_cli.problems.sources import told_apart

    renamed = {
        name: replace(
            each,
            problems=tuple(
                replace(p, id=str(n), source="problems.jsonl")
                for n, p in enumerate(each.problems)
            ),
        )
        for name, each in (
            ("train", SPLITS.train), ("validation", SPLITS.validation), ("test", SPLITS.test)
        )
    }  # fmt: skip
    splits = replace(SPLITS, **told_apart(renamed))
    policy = FakePolicy(skill=1.0, gain=0.0)
    with Run.create(
        tmp_path / "run", run_config("train.steps=1", "preflight.enabled=false"), {}
    ) as run:
        result = train(policy, splits, run)
    assert result.accuracy["base"].value == 1.0
    rows = [
        r
        for r in run_directory.read_rows(tmp_path / "run" / run_directory.EVALUATIONS)
        if r["step"] == 0
    ]
    assert {row["split"]: set(row["correct"]) for row in rows} == {
        "validation": {1.0}, "test": {1.0},
    }  # fmt: skip
    prompts = {request.prompt_ids for request in policy.drawn}
    seeds = {request.seed for request in policy.drawn}
    assert len(prompts) == len(seeds) == 30 + 20 + 5


# -- creation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [".config.yaml.partial", ".lock", ".seals.json"])
def test_a_creation_that_was_killed_leaves_the_directory_free(tmp_path: Path, left: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("hal")
    begin(tmp_path / "run", "train.steps=1")


@pytest.mark.parametrize("at", range(1, 9))
def test_a_creation_killed_at_any_write_can_be_begun_again_or_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path, at: int
) -> None:
    """Renames and writes are counted; the one at `at` is the last thing that happens."""
    directory, left = tmp_path / "run", at

    def mortal(name: str) -> None:
        real = getattr(Path, name)

        def call(self: Path, *rest: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return real(self, *rest, **more)

        patched.setattr(Path, name, call)

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(whole_files, "_written", lambda path: contextlib.nullcontext())
        for name in ("write_text", "replace"):
            mortal(name)
        Run.create(directory, run_config(), {"packages": {}}).close()
    if (directory / run_directory.CONFIG).exists():
        resume(directory)
    else:
        begin(directory)
    assert run_contents(directory) == run_contents(finished_run)


def test_a_full_disk_at_the_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Iterator[Rollout]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(RunError, match="No space left on device"):
            Run.create(tmp_path / "run", run_config(), {})
    assert not (tmp_path / "run").exists()


def test_a_log_torn_inside_a_character_is_gone_on_with(
    stopped_run: Path, finished_run: Path
) -> None:
    with (stopped_run / run_directory.ROLLOUTS).open("ab") as log:
        log.write('{"step": 5, "completion": "é'.encode()[:-1])
    resume(stopped_run)
    assert run_contents(stopped_run) == run_contents(finished_run)


def test_a_damaged_environment_is_said_and_does_not_end_the_run(stopped_run: Path) -> None:
    (stopped_run / run_directory.ENVIRONMENT).write_text('{"opsd":')
    with Run.resume(stopped_run) as run:
        assert run.environment() is None
        run.add_environment({"opsd": "2"})
        assert run.environment()["later"] == [{"opsd": "2"}]  # type: ignore[index]


def test_who_holds_a_run_is_named(stopped_run: Path) -> None:
    import os

    with (
        Run.resume(stopped_run),
        pytest.raises(RunError, match=rf"another process \(pid {os.getpid()}\)"),
    ):
        Run.resume(stopped_run)


def test_each_monitor_is_written_once(finished_run: Path) -> None:
    for row in run_directory.read_rows(finished_run / run_directory.METRICS):
        assert "monitors" not in row and "completion_tokens" in row
