"""A training run from its config to its result: the work of `opsd train` and `opsd_cli.train`.

    begin (a new run) or resume (one that was stopped) -> work

`begin` and `resume` read the problems, choose the backend and hold the run directory; `work` takes
a loaded policy through the training loop. Nothing here prints: callers pass a listener.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.interface import SpansProcesses
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.recommended_sampling import with_recommended
from opsd_cli.grading import check_grader, function_files
from opsd_cli.interruption import Stop, never
from opsd_cli.loading import choose_backend, with_absolute_adapter
from opsd_cli.planning.before_step_1 import before_step_1
from opsd_cli.planning.teacher_checks import KEY as TEACHER
from opsd_cli.planning.teacher_checks import identity, require_same_teacher, require_teacher
from opsd_cli.problems.sources import Splits, load_splits
from opsd_cli.provenance import provenance
from opsd_cli.tracking import trackers
from opsd_cli.tracking.listener import Listener, Messages
from opsd_cli.tracking.trackers import tracking
from opsd_cli.training import run_directory
from opsd_cli.training.extension import extend
from opsd_cli.training.remaining import remaining
from opsd_cli.training.result import TrainResult, finished_result
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train as train_policy

if TYPE_CHECKING:
    from backends import Choice
    from backends.interface import Policy


@dataclass(frozen=True)
class TrainingSession:
    """An open run, and what it still needs: problems to train on, or nothing.

    Attributes:
        run: locked; its config has the chosen backend and final sampling numbers.
        splits: train, validation and test problems; None for a run that has finished.
        finished: the result of a run that has finished.
    """

    run: Run
    splits: Splits | None = None
    finished: TrainResult | None = None

    @property
    def engine_folder(self) -> Path:
        """Where a rollout engine in its own process keeps its files."""
        return self.run.directory / "vllm"


def prepared(config: Config, messages: Messages) -> tuple[Config, Splits, Choice]:
    """The config with its backend and sampling decided, the problems, and the choice of backend.

    Raises:
        DataError: the problems cannot be read.
        BackendMissing: the backend cannot run on this machine.
        ConfigError: the grader cannot be used.
        ModelError: `teacher.model` is not there, or has another vocabulary.
        ConfigError, ModelError: recommended sampling numbers are not available.
    """
    config = with_absolute_adapter(config)
    check_grader(config.grading)
    splits = load_splits(config)
    config, choice = choose_backend(config, messages)
    require_teacher(config, messages)
    config, _ = with_recommended(config, messages)
    return config, splits, choice


@contextlib.contextmanager
def begin(config: Config, directory: Path | None, messages: Messages) -> Iterator[TrainingSession]:
    """A new run, its directory held until the end of the block.

    Args:
        directory: new or empty; by default a fresh one under `runs/`.

    Raises:
        RunError: the directory holds something already, or cannot be written.
        UsageError: a tracker's package is not installed.
        ConfigError: the grader cannot be used.
        DataError: the problems cannot be read.
        BackendMissing: the backend cannot run on this machine.
        ModelError: `teacher.model` is not there, or has another vocabulary.
        ConfigError, ModelError: recommended sampling numbers are not available.
    """
    from backends.shared.model_files import commit_of

    if directory is not None:
        run_directory.refuse_used(directory)
    trackers.require(config.log)
    config, splits, choice = prepared(config, messages)
    where = provenance(choice.name, choice.reason)
    where |= {"data": splits.provenance(), "model_commit": commit_of(config)}
    teacher = identity(config)
    where |= {TEACHER: teacher} if teacher else {}
    files = function_files(config.grading)
    where |= {"grader_files": files} if files else {}
    with Run.create(directory, config, where) as run:
        messages.note(f"run {run.directory}")
        sizes = {split: len(each.problems) for split, each in splits.named().items()}
        rollouts = before_step_1(config, sizes)
        if rollouts.total:
            messages.note(f"{rollouts.sentence} ({rollouts.fewer})")
        yield TrainingSession(run, splits)


@contextlib.contextmanager
def resume(
    directory: Path,
    messages: Messages,
    step: int | None = None,
    backend: str | None = None,
    steps: int | None = None,
) -> Iterator[TrainingSession]:
    """A run that was begun before, its directory held until the end of the block.

    Args:
        step: go back to the checkpoint of this step; by default to the newest whole one.
        backend: where to resume; by default where the run began.
        steps: of a finished run, its new and greater number of steps.

    Raises:
        RunError: there is no run, it is in use, what is needed to resume it is lost, or
            `teacher.model` is not what it was.
        DataError: the problems cannot be read.
        BackendMissing: the backend cannot run on this machine.
    """
    if steps is not None:
        remaining(directory, step, steps=steps)  # refuses before anything is rewound or sealed
    with Run.resume(directory, step) as run:
        finished = finished_result(run)
        if steps is not None and (finished is not None or steps != run.config.train.steps):
            reached = finished.steps if finished is not None else None
            run.config, told = extend(directory, run.config, reached, steps)
            messages.note(told)
            finished = None
        if finished is not None:
            for note in run.notes:
                messages.warn(note)
            messages.note(f"this run has finished: {run.directory}")
            yield TrainingSession(run, finished=finished)
            return
        trackers.require(run.config.log)
        check_grader(run.config.grading)
        _warn_of_changed_grader(run, messages)
        require_same_teacher(run.config, (run.environment() or {}).get(TEACHER))
        _choose_again(run, backend, messages)
        splits = load_splits(run.config)
        if run.environment() is None:
            messages.warn(
                f"{run_directory.ENVIRONMENT} was missing or damaged; it now describes this machine"
            )
            where = provenance(run.config.backend, "as the run began")
            run.add_environment(where | {"data": splits.provenance()})
        messages.note(f"run {run.directory}")
        yield TrainingSession(run, splits)


def _choose_again(run: Run, backend: str | None, messages: Messages) -> None:
    """The run's own backend, or the one asked for: checkpoints are portable between backends.

    A move is written into environment.json; config.yaml stays as the run began.
    """
    began = run.config.backend
    if backend in (None, began):
        messages.note(f"backend {began}, as the run began")
        return
    config = run.config.model_copy(update={"backend": backend})
    run.config, choice = choose_backend(config, messages)
    messages.note(
        f"the run began on {began}; from here on the same steps to rounding, not bit for bit"
    )
    run.add_environment({"from_step": _step_of(run)} | provenance(choice.name, choice.reason))


def _warn_of_changed_grader(run: Run, messages: Messages) -> None:
    """Warn if a file of a user's grader is not what it was, and record what it is now."""
    environment = run.environment() or {}
    known = [environment, *environment.get("later", [])]
    files = [each["grader_files"] for each in known if "grader_files" in each]
    before: dict[str, str] = files[-1] if files else {}
    now = function_files(run.config.grading)
    changed = [name for name, digest in before.items() if now.get(name) != digest]
    if changed:
        messages.warn(
            f"{changed[0]} has changed since it last graded this run: rewards and accuracies "
            "before and after are of two graders"
        )
        run.add_environment({"from_step": _step_of(run), "grader_files": now})


def _step_of(run: Run) -> int:
    """The step of the newest checkpoint; 0 before there is one."""
    return run.state()["step"] if run.latest() else 0


def work(
    session: TrainingSession, policy: Policy, listener: Listener, stop: Stop = never
) -> TrainResult:
    """Train until the result, with the config's trackers beside the listener.

    Args:
        policy: loaded trainable, from the run's config.
        stop: polled after each finished rollout and between steps.

    Raises: as `opsd_cli.training.trainer.train`.
    """
    if session.finished is not None:
        return session.finished
    assert session.splits is not None
    run = session.run
    if isinstance(policy, SpansProcesses) and policy.processes > 1:
        run.add_environment({"from_step": _step_of(run), "ranks": policy.processes})
    described = run.config.model_dump(mode="json")
    with tracking(run.config.log, listener, run.directory, described, _step_of(run)) as told:
        return train_policy(policy, session.splits, run, told, stop)
