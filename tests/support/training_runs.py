"""Training runs of the fake policy that are begun, interrupted, killed, damaged and resumed.

A run of `begin` is a function of its config alone, so a run that was interrupted and resumed must
leave the same files; `run_contents` reads them for the comparison.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.tracking.listener import EvaluationRow, Listener
from opsd_cli.training import run_directory
from opsd_cli.training.result import TrainResult
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS

#: Keys whose values depend on the clock; everything else of a run is a function of its config.
CLOCK_KEYS = {"seconds", "cpu_seconds", "training_cpu_seconds", "tokens_per_second"}
#: Preflight (2 x 32), base and final on test (2 x 30), four validations of 20, six steps of 5.
ROLLOUTS_OF_A_RUN = 64 + 60 + 80 + 30


class Killed(BaseException):
    """Stands in for SIGKILL: no `except Exception` catches it."""


class KilledAfter(Listener):
    """Raises `Killed` after so many rollouts, or at the given evaluation (from 1)."""

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


class StopWithin(Listener):
    """Listener and `stop` in one: Ctrl-C after so many rollouts of the n-th phase of a name."""

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


def learner() -> FakePolicy:
    """The policy of these runs: three of ten answers right, and one more with each step."""
    return FakePolicy(skill=0.3, gain=0.1)


def run_config(*assignments: str) -> Config:
    """Six steps of five questions, validated and saved every second step."""
    return resolve(
        None,
        [
            "model=a-model", "train.steps=6", "train.questions_per_step=5", "train.patience=null",
            "train.evaluate_every=2", "train.checkpoint_every=2", "train.keep_checkpoints=9",
            *assignments,
        ],
    )  # fmt: skip


def begin(
    directory: Path, *assignments: str, policy: FakePolicy | None = None, **more: Any
) -> TrainResult:
    """Train a new run with these settings; `more` goes to `train`."""
    with Run.create(directory, run_config(*assignments), {"packages": {}}) as run:
        return train(policy or learner(), SPLITS, run, **more)


def resume(
    directory: Path, step: int | None = None, policy: FakePolicy | None = None, **more: Any
) -> TrainResult:
    """Resume a run from its newest checkpoint, or from that of a step."""
    with Run.resume(directory, step) as run:
        return train(policy or learner(), SPLITS, run, **more)


def run_until_killed(directory: Path, killer: Listener, *assignments: str) -> None:
    """Begin or resume until the killer raises: nothing is closed or tidied up but the lock."""
    run = (
        Run.resume(directory)
        if directory.exists()
        else Run.create(directory, run_config(*assignments), {"packages": {}})
    )
    with contextlib.suppress(Killed):
        train(learner(), SPLITS, run, killer)
    run.close()


def run_contents(directory: Path, without: Sequence[str] = ()) -> dict[str, Any]:
    """All files of a run by name, without clock values, seals, and the run's own name."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in CLOCK_KEYS}
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


def truncate_file(path: Path, share: float) -> None:
    """Keep this share of a file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
