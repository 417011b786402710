"""The registry of experiment trackers (`--log trackio`, `wandb`, `tensorboard`).

A run's own files hold everything; a tracker receives a copy of the metrics as they are measured.
None uses the network unless asked to: trackio and TensorBoard write files, and Weights & Biases
runs offline until `WANDB_MODE` says otherwise. A tracker that fails is dropped with a warning, and
training continues without it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.errors import UsageError
from opsd_cli.lazy import load
from opsd_cli.tracking.listener import Decoded, EvaluationRow, Listener, StepRow, WorkAhead

if TYPE_CHECKING:
    from opsd_cli.tracking.sinks import Sink

#: name -> "module:Class" of a `Sink`, imported when a run asks for it. The config's `log` accepts
#: these names.
TRACKERS: dict[str, str] = {
    "trackio": "opsd_cli.tracking.sinks:TrackioSink",
    "wandb": "opsd_cli.tracking.sinks:WandbSink",
    "tensorboard": "opsd_cli.tracking.sinks:TensorBoardSink",
}


def sink_class(name: str) -> type[Sink]:
    """The class of a tracker in the registry."""
    kind: type[Sink] = load(TRACKERS[name])
    return kind


def require(names: Sequence[str]) -> None:
    """Check that the packages of all trackers are installed, before a run directory is made.

    Raises:
        UsageError: one is not.
    """
    for name in names:
        kind = sink_class(name)
        if find_spec(kind.module) is None:
            raise UsageError(
                f"--log {name} needs the package {kind.package}, which is not installed",
                f"pip install {kind.package}",
            )


@contextlib.contextmanager
def tracking(
    names: Sequence[str],
    listener: Listener,
    run_dir: Path,
    config: Mapping[str, Any],
    step: int,
) -> Iterator[Listener]:
    """A listener that also logs to trackers, which are closed at the end, after errors too.

    Args:
        names: trackers in the registry, which have passed `require`.
        listener: receives every event first.
        config: the resolved config as a mapping.
        step: the step that the run resumes after; 0 for a new run.
    """
    if not names:
        yield listener
        return
    sinks = {}
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        for name in dict.fromkeys(names):
            sinks[name] = sink_class(name)(run_dir, config, step)
    tracked = TrackedListener(listener, sinks)
    try:
        yield tracked
    finally:
        tracked.close()


class TrackedListener(Listener):
    """Passes every event to another listener, and the numbers in it to trackers."""

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

    def working(self, what: str) -> AbstractContextManager[None]:
        return self._inner.working(what)

    def decoding(self, progress: Decoded) -> None:
        self._inner.decoding(progress)

    def learning(self, done: int, total: int) -> None:
        self._inner.learning(done, total)

    def ahead(self, work: WorkAhead) -> None:
        self._inner.ahead(work)

    def checkpoint(self, step: int, path: str) -> None:
        self._inner.checkpoint(step, path)

    def preflight(self, student: Any, teacher: Any, problems: int) -> None:
        self._inner.preflight(student, teacher, problems)
        self._log({"preflight/student": student.value, "preflight/teacher": teacher.value}, 0)

    def step(self, row: StepRow) -> None:
        self._inner.step(row)
        flat = asdict(row)
        ledger = {f"tokens/{kind}": number for kind, number in flat.pop("ledger").items()}
        metrics = flat.pop("metrics")
        own = {f"train/{name}": value for name, value in flat.items() if name not in _POSITION}
        everything = {**own, **ledger, **dict(_prefixed("monitors", metrics))}
        self._log(_numbers(everything), row.step)

    def evaluation(self, row: EvaluationRow) -> None:
        self._inner.evaluation(row)
        split = row.split
        numbers = {
            f"{split}/truncated": row.truncated,
            f"{split}/no_answer": row.no_answer,
            f"{split}/mean_tokens": row.mean_tokens,
        }
        for name in ("accuracy", "divergence", "reference_log_prob"):
            estimate = getattr(row, name)
            if estimate is not None:
                numbers[f"{split}/{name}"] = estimate.value
                numbers[f"{split}/{name}_low"] = estimate.low
                numbers[f"{split}/{name}_high"] = estimate.high
        self._log(_numbers(numbers), row.step)

    def close(self) -> None:
        """Close every tracker."""
        for name in list(self._sinks):
            self._attempt(name, lambda sink: sink.close())

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        # Trackers need steps that never decrease, but the best checkpoint is measured at the end.
        self._step = max(self._step, step)
        for name in list(self._sinks):
            self._attempt(name, lambda sink: sink.log(numbers, self._step))

    def _attempt(self, name: str, work: Callable[[Sink], None]) -> None:
        """Call a tracker; if it fails, drop it with a warning."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                work(self._sinks[name])
        except Exception as error:
            del self._sinks[name]
            self._inner.warn(f"--log {name} stops here: {type(error).__name__}: {error}")


#: Fields of a `StepRow` that say which step it is, and are no metrics.
_POSITION = ("step", "steps")


def _prefixed(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Nested values under slash-separated names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _prefixed(f"{prefix}/{name}", value)
        else:
            yield f"{prefix}/{name}", value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are numbers; trackers cannot plot booleans, text or None."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
