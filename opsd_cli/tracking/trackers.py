"""Metrics for the dashboards people have: `--log trackio`, `wandb` or `tensorboard`.

A run's own files hold everything; a tracker gets a copy of the numbers as they come. Nothing goes
over the network unless it is asked to: trackio and TensorBoard write files, and Weights & Biases
runs offline until `WANDB_MODE` says otherwise (`wandb sync` uploads it later). A tracker that fails
is dropped with a warning: no run dies of its dashboard.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from opsd_cli.errors import UsageError
from opsd_cli.tracking.listener import EvaluationRow, Listener, StepRow

PROJECT = "opsd"
#: Tracker -> the module it needs, and the package that brings it.
PACKAGES = {
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
    "tensorboard": ("tensorboardX", "tensorboardX"),
}


class Sink(Protocol):
    """Where numbers go."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Some numbers of a step; steps never fall."""

    def close(self) -> None:
        """No more will come."""


def open_sink(name: str, run_dir: Path, config: Mapping[str, Any], step: int) -> Sink:
    """A tracker for a run that begins, or goes on after `step`."""
    kinds: dict[str, Callable[[Path, Mapping[str, Any], int], Sink]] = {
        "trackio": _Trackio,
        "wandb": _Wandb,
        "tensorboard": _TensorBoard,
    }
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        return kinds[name](run_dir, config, step)


class _Trackio:
    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=run_dir.resolve().name,
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        import wandb

        name = run_dir.resolve().name
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=name,
            config=dict(config),
            dir=str(run_dir),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _TensorBoard:
    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        from tensorboardX import SummaryWriter

        purge = step + 1 if step else None
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Tracked(Listener):
    """Hands every event on to another listener, and the numbers in it to trackers."""

    def __init__(self, inner: Listener, sinks: Mapping[str, Sink]) -> None:
        self._inner = inner
        self._sinks = dict(sinks)
        self._step = 0

    def note(self, message: str) -> None:
        self._inner.note(message)

    def warn(self, message: str) -> None:
        self._inner.warn(message)

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self._inner.phase(name, total, done)

    def advance(self, units: int = 1) -> None:
        self._inner.advance(units)

    def checkpoint(self, step: int, path: str) -> None:
        self._inner.checkpoint(step, path)

    def preflight(self, student: Any, teacher: Any, problems: int) -> None:
        self._inner.preflight(student, teacher, problems)
        self._log({"preflight/student": student.value, "preflight/teacher": teacher.value}, 0)

    def step(self, row: StepRow) -> None:
        self._inner.step(row)
        flat = asdict(row)
        ledger = {f"tokens/{kind}": number for kind, number in flat.pop("ledger").items()}
        monitors = flat.pop("metrics")
        own = {f"train/{name}": value for name, value in flat.items() if name not in _POSITION}
        everything = {**own, **ledger, **dict(_prefixed("monitors", monitors))}
        self._log(_numbers(everything), row.step)

    def evaluation(self, row: EvaluationRow) -> None:
        self._inner.evaluation(row)
        split = row.split
        self._log(
            {
                f"{split}/accuracy": row.accuracy.value,
                f"{split}/accuracy_low": row.accuracy.low,
                f"{split}/accuracy_high": row.accuracy.high,
                f"{split}/truncated": row.truncated,
                f"{split}/no_answer": row.no_answer,
                f"{split}/mean_tokens": row.mean_tokens,
            },
            row.step,
        )

    def close(self) -> None:
        """Close every tracker."""
        for name in list(self._sinks):
            self._attempt(name, lambda sink: sink.close())

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        # The best checkpoint is measured last, and its step is past.
        self._step = max(self._step, step)
        for name in list(self._sinks):
            self._attempt(name, lambda sink: sink.log(numbers, self._step))

    def _attempt(self, name: str, work: Callable[[Sink], None]) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                work(self._sinks[name])
        except Exception as error:
            del self._sinks[name]
            self._inner.warn(f"--log {name} stops here: {type(error).__name__}: {error}")


_POSITION = ("step", "steps")


def _prefixed(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _prefixed(f"{prefix}/{name}", value)
        else:
            yield f"{prefix}/{name}", value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


@contextlib.contextmanager
def tracking(
    names: Sequence[str],
    listener: Listener,
    run_dir: Path,
    config: Mapping[str, Any],
    step: int,
) -> Iterator[Listener]:
    """The listener with trackers beside it, closed at the end however that comes.

    `require` comes before.
    """
    if not names:
        yield listener
        return
    tracked = Tracked(
        listener, {name: open_sink(name, run_dir, config, step) for name in dict.fromkeys(names)}
    )
    try:
        yield tracked
    finally:
        tracked.close()


def require(names: Sequence[str]) -> None:
    """Raise `UsageError`, before anything is made, unless every tracker's package is there."""
    from importlib.util import find_spec

    for name in names:
        module, package = PACKAGES[name]
        if find_spec(module) is None:
            raise UsageError(
                f"--log {name} needs the package {package}, which is not installed",
                f"pip install {package}",
            )
