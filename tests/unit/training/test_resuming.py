"""A run gone on with: what is lost is said, what was made is kept, and no number is made up."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Rollout
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import Interrupted, PreflightFailed, RunError
from opsd_cli.files import atomic_write
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.tracking.listener import EvaluationRow, Listener
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import TrainResult, train
from tests.support.fakes import FakePolicy, StopAfter
from tests.unit.training.test_trainer import SPLITS

#: What depends on the clock; everything else of a run is a function of its config.
OF_THE_CLOCK = {"seconds", "cpu_seconds", "training_cpu_seconds", "tokens_per_second"}


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


class KilledAfter(Listener):
    """Dies once so many rollouts are in, or at the given evaluation."""

    def __init__(self, rollouts: int = 10**9, evaluations: int = 10**9) -> None:
        self._rollouts, self._evaluations = rollouts, evaluations

    def advance(self, units: int = 1) -> None:
        self._rollouts -= units
        if self._rollouts < 0:
            raise Killed

    def evaluation(self, row: EvaluationRow) -> None:
        self._evaluations -= 1
        if self._evaluations <= 0:
            raise Killed


def config(*assignments: str) -> Any:
    return resolve(
        None,
        [
            "model=a-model", "train.steps=6", "train.questions_per_step=5", "train.patience=null",
            "train.evaluate_every=2", "train.checkpoint_every=2", "train.keep_checkpoints=9",
            *assignments,
        ],
    )  # fmt: skip


def begin(directory: Path, *assignments: str, **more: Any) -> TrainResult:
    skill = more.pop("policy", None) or FakePolicy(skill=0.3, gain=0.1)
    with Run.create(directory, config(*assignments), {"packages": {}}) as run:
        return train(skill, SPLITS, run, **more)


def go_on(directory: Path, step: int | None = None, **more: Any) -> TrainResult:
    policy = more.pop("policy", None) or FakePolicy(skill=0.3, gain=0.1)
    with Run.resume(directory, step) as run:
        return train(policy, SPLITS, run, **more)


def kill(directory: Path, killer: Listener, *settings: str) -> None:
    """Begin or go on until the process dies: nothing is closed or tidied up but the lock."""
    exists = directory.exists()
    run = (
        Run.resume(directory)
        if exists
        else Run.create(directory, config(*settings), {"packages": {}})
    )
    with contextlib.suppress(Killed):
        train(FakePolicy(skill=0.3, gain=0.1), SPLITS, run, killer)
    run.close()


def contents(directory: Path, without: Sequence[str] = ()) -> dict[str, Any]:
    """All that a run holds, the clock and the run's own name left out."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in OF_THE_CLOCK}
        return value

    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_dir() or name.endswith(
            ("manifest.json", run_directory.LOCK, run_directory.SEALS, *without)
        ):
            continue
        if name.endswith(".jsonl"):
            found[name] = [timeless(row) for row in read_rows(path)]
        elif name.endswith(".json"):
            found[name] = timeless(json.loads(path.read_text()))
            if isinstance(found[name], dict):
                found[name].pop("run_dir", None)
        else:
            found[name] = path.read_bytes()
    return found


#: Preflight (2 x 32), base and final on test (2 x 30), four validations of 20, six steps of 5.
ROLLOUTS_OF_A_RUN = 64 + 60 + 80 + 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    policy = FakePolicy(skill=0.3, gain=0.1)
    result = begin(directory, policy=policy)
    assert len(policy.drawn) == ROLLOUTS_OF_A_RUN and result.best_step == 6
    return directory


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run stopped after step 4, with checkpoints of steps 0, 2 and 4."""
    stop = StopAfter(4)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", listener=stop, stop=stop)
    return tmp_path / "run"


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


# -- logs that are lost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "log", [run_directory.METRICS, run_directory.ROLLOUTS, run_directory.EVALUATIONS]
)
@pytest.mark.parametrize("loss", ["missing", "cut", "changed"])
def test_a_log_that_has_lost_something_is_not_gone_on_with(
    stopped: Path, log: str, loss: str
) -> None:
    {"missing": Path.unlink, "cut": lambda p: cut(p, 0.5), "changed": flip}[loss](stopped / log)
    before = contents(stopped / "checkpoints")
    with pytest.raises(RunError, match=log) as caught:
        go_on(stopped)
    assert caught.value.hint
    assert contents(stopped / "checkpoints") == before  # nothing was cut, renamed or measured


def test_going_back_to_a_step_that_does_not_need_the_lost_log(stopped: Path, whole: Path) -> None:
    (stopped / run_directory.METRICS).unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl is missing") as caught:
        go_on(stopped)
    assert "--resume-from 0" in caught.value.hint
    go_on(stopped, step=0)
    shutil.rmtree(stopped / "checkpoints" / "later-step-000002")
    shutil.rmtree(stopped / "checkpoints" / "later-step-000004")
    assert contents(stopped) == contents(whole)


def test_base_is_never_measured_with_trained_weights(stopped: Path) -> None:
    """Without the evaluations a resumed run once took the trained accuracy for the base's."""
    for path in (stopped / "checkpoints").glob("*/manifest.json"):
        path.unlink()  # as an earlier version left it: nothing tells that the log was there
    (stopped / run_directory.SEALS).unlink()
    (stopped / run_directory.EVALUATIONS).unlink()
    with pytest.raises(RunError, match="before the first step"):
        go_on(stopped)


def test_an_edited_config_is_not_gone_on_with(stopped: Path) -> None:
    path = stopped / run_directory.CONFIG
    path.write_text(path.read_text().replace("learning_rate: 5e-06", "learning_rate: 5e-03"))
    with pytest.raises(RunError, match=r"config\.yaml was changed"):
        go_on(stopped)


def test_lost_checkpoints_are_not_taken_for_a_new_run(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(RunError, match="lost its checkpoints"):
        go_on(stopped)


# -- checkpoints that are damaged ------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "adapter_model.safetensors"),
        lambda folder: flip(folder / "state.json"),
        lambda folder: flip(folder / "manifest.json"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: cut(folder / "state.json", 0.3),
        lambda folder: (folder / "adapter_config.json").write_text(""),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    stopped: Path, whole: Path, damage: Callable[[Path], None]
) -> None:
    damage(stopped / "checkpoints" / "step-000004")
    with Run.resume(stopped) as run:
        assert run.state()["step"] == 2
        assert any("step 4 is damaged" in note and "step 2" in note for note in run.notes)
        train(FakePolicy(skill=0.3, gain=0.1), SPLITS, run)
    shutil.rmtree(stopped / "checkpoints" / "damaged-step-000004")
    assert contents(stopped) == contents(whole)


def test_where_no_checkpoint_is_whole_that_is_said(stopped: Path) -> None:
    for folder in (stopped / "checkpoints").iterdir():
        flip(folder / "adapter_model.safetensors")
    with pytest.raises(RunError, match=r"no checkpoint of .* is whole") as caught:
        go_on(stopped)
    assert "adapter_model.safetensors is not what was written" in caught.value.message
    assert len(list((stopped / "checkpoints").glob("step-*"))) == 3


def test_resuming_from_a_step(stopped: Path, whole: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint of step 3") as caught:
        go_on(stopped, step=3)
    assert "0, 2, 4" in caught.value.hint
    with Run.resume(stopped, 2) as run:
        assert run.state()["step"] == 2
        train(FakePolicy(skill=0.3, gain=0.1), SPLITS, run)
    shutil.rmtree(stopped / "checkpoints" / "later-step-000004")
    assert contents(stopped) == contents(whole)


def test_a_finished_run_can_go_back_too(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    go_on(tmp_path / "run", step=4)
    assert (tmp_path / "run" / "later-result.json").exists()
    (tmp_path / "run" / "later-result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "later-step-000006")
    assert contents(tmp_path / "run") == contents(whole)


def test_a_whole_checkpoint_whose_renaming_was_cut_short_is_recovered(
    stopped: Path, whole: Path
) -> None:
    folder = stopped / "checkpoints"
    (folder / "step-000004").rename(folder / ".step-000004")
    (folder / "step-000002").rename(folder / ".step-000002.old")
    with Run.resume(stopped) as run:
        assert run.state()["step"] == 4 and not run.notes
        train(FakePolicy(skill=0.3, gain=0.1), SPLITS, run)
    assert contents(stopped) == contents(whole)


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
    tmp_path: Path, whole: Path, rollouts: int
) -> None:
    """Preflight, base, validations, steps and the end phase: result.json and ledger included."""
    directory = tmp_path / "run"
    kill(directory, KilledAfter(rollouts))
    kill(directory, KilledAfter(rollouts // 2))  # and again, wherever that is
    go_on(directory)
    assert contents(directory) == contents(whole)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 5, 6])
def test_killed_between_two_measurements_each_is_paid_for_once(
    tmp_path: Path, whole: Path, evaluations: int
) -> None:
    directory = tmp_path / "run"
    kill(directory, KilledAfter(evaluations=evaluations))
    go_on(directory)
    assert contents(directory) == contents(whole)


@pytest.mark.parametrize("rollouts", [10, 40, 80, 120, 200, 250])
def test_analyses_are_written_and_paid_for_once(tmp_path: Path, rollouts: int) -> None:
    """A resumed run of a teacher that reasons first once had every analysis written again."""
    policy = FakePolicy(skill=0.3, gain=0.1)
    begin(tmp_path / "whole", "teacher.reason_first=true", policy=policy)
    with contextlib.suppress(Killed):
        kill(tmp_path / "run", KilledAfter(rollouts), "teacher.reason_first=true")
    go_on(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


# -- the end ---------------------------------------------------------------------------------------


def test_resuming_a_finished_run_changes_nothing_and_draws_nothing(
    tmp_path: Path, whole: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    policy = FakePolicy(skill=0.9)
    result = go_on(tmp_path / "run", policy=policy)
    assert not policy.drawn
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    lock = tmp_path / "run" / run_directory.LOCK
    assert before | {lock: after[lock]} == after
    assert result.as_dict() == json.loads((whole / run_directory.RESULT).read_text())


@pytest.mark.parametrize("damage", [flip, lambda p: cut(p, 0.5), Path.unlink])
def test_a_result_that_is_damaged_is_made_anew_from_the_logs(
    tmp_path: Path, whole: Path, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    damage(tmp_path / "run" / run_directory.RESULT)
    policy = FakePolicy()
    go_on(tmp_path / "run", policy=policy)
    assert not policy.drawn
    assert contents(tmp_path / "run") == contents(whole)
    with Run.resume(tmp_path / "run") as run:  # and is whole from then on
        assert run.result() is not None and not run.notes


def test_killed_between_the_result_and_its_seal(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    seals = tmp_path / "run" / run_directory.SEALS
    sealed = json.loads(seals.read_text())
    seals.write_text(
        json.dumps({name: sealed[name] for name in (run_directory.CONFIG, run_directory.PREFLIGHT)})
    )
    (tmp_path / "run" / "..seals.json.partial").write_text('{"conf')
    go_on(tmp_path / "run")
    assert json.loads(seals.read_text()).keys() == sealed.keys()
    assert not list((tmp_path / "run").glob(".*.partial"))


def test_an_old_checkpoint_that_a_kill_kept_goes(tmp_path: Path) -> None:
    """Killed after a checkpoint was written and before the one before it was dropped."""
    begin(tmp_path / "run", "train.keep_checkpoints=1")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-000006", folder / "step-000004")
    (tmp_path / "run" / run_directory.RESULT).unlink()
    go_on(tmp_path / "run")
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


class StopWithin(Listener):
    """A user who presses Ctrl-C after so many rollouts of the phase named."""

    def __init__(self, phase: str, rollouts: int, nth: int = 1) -> None:
        self._phase, self._left, self._nth = phase, rollouts, nth
        self._in, self.stopping = False, False

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self._nth -= name.startswith(self._phase)
        self._in = name.startswith(self._phase) and self._nth == 0

    def advance(self, units: int = 1) -> None:
        self._left -= units * self._in
        self.stopping = self.stopping or self._left <= 0

    def __call__(self) -> bool:
        return self.stopping


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
    tmp_path: Path, whole: Path, phase: str, nth: int, step: int
) -> None:
    directory = tmp_path / "run"
    stop, policy = StopWithin(phase, 3, nth), FakePolicy(skill=0.3, gain=0.1)
    with pytest.raises(Interrupted) as caught:
        begin(directory, listener=stop, stop=stop, policy=policy)
    assert f"after step {step} of 6" in caught.value.message
    assert f"--resume --out {directory}" in caught.value.hint
    again = FakePolicy(skill=0.3, gain=0.1)
    go_on(directory, policy=again)
    if step % 2:  # the checkpoint that stopping made
        shutil.rmtree(directory / "checkpoints" / f"step-{step:06d}")
    assert contents(directory) == contents(whole)
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


def test_a_kept_sample_that_was_damaged_is_drawn_again(tmp_path: Path, whole: Path) -> None:
    directory = tmp_path / "run"
    stop, policy = StopWithin("test (final)", 6), FakePolicy(skill=0.3, gain=0.1)
    with pytest.raises(Interrupted):
        begin(directory, listener=stop, stop=stop, policy=policy)
    path = directory / run_directory.UNFINISHED
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    lines[2] = lines[2].replace('"tokens": 1', '"tokens": 2')
    lines[4] = lines[4].replace('"correct"', '"corrext"')
    path.write_text("".join(lines))
    again = FakePolicy(skill=0.3, gain=0.1)
    go_on(directory, policy=again)
    assert contents(directory) == contents(whole)
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
        tmp_path / "run", config("train.steps=1", "preflight.enabled=false"), {}
    ) as run:
        result = train(policy, splits, run)
    assert result.accuracy["base"].value == 1.0
    rows = [r for r in read_rows(tmp_path / "run" / run_directory.EVALUATIONS) if r["step"] == 0]
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path, at: int
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
        patched.setattr(atomic_write, "_staging_errors", lambda path: contextlib.nullcontext())
        for name in ("write_text", "replace"):
            mortal(name)
        Run.create(directory, config(), {"packages": {}}).close()
    if (directory / run_directory.CONFIG).exists():
        go_on(directory)
    else:
        begin(directory)
    assert contents(directory) == contents(whole)


def test_a_full_disk_at_the_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Iterator[Rollout]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(RunError, match="No space left on device"):
            Run.create(tmp_path / "run", config(), {})
    assert not (tmp_path / "run").exists()


def test_a_log_torn_inside_a_character_is_gone_on_with(stopped: Path, whole: Path) -> None:
    with (stopped / run_directory.ROLLOUTS).open("ab") as log:
        log.write('{"step": 5, "completion": "é'.encode()[:-1])
    go_on(stopped)
    assert contents(stopped) == contents(whole)


def test_a_damaged_environment_is_said_and_does_not_end_the_run(stopped: Path) -> None:
    (stopped / run_directory.ENVIRONMENT).write_text('{"opsd":')
    with Run.resume(stopped) as run:
        assert run.environment() is None
        run.add_environment({"opsd": "2"})
        assert run.environment()["later"] == [{"opsd": "2"}]  # type: ignore[index]


def test_who_holds_a_run_is_named(stopped: Path) -> None:
    import os

    with (
        Run.resume(stopped),
        pytest.raises(RunError, match=rf"another process \(pid {os.getpid()}\)"),
    ):
        Run.resume(stopped)


def test_each_monitor_is_written_once(whole: Path) -> None:
    for row in read_rows(whole / run_directory.METRICS):
        assert "monitors" not in row and "completion_tokens" in row
