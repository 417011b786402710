"""Experiment trackers that opsd supports, each an adapter of one package to `Sink`.

To add one, write a class like these and a line in `opsd_cli.tracking.trackers.TRACKERS`. Packages
are imported in `__init__` alone, so that reading the registry imports none of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

PROJECT = "opsd"


class Sink(Protocol):
    """Receives a run's metrics.

    Its constructor takes `run_dir` (the run directory, whose name is the run's), `config` (the
    resolved config as a mapping), and `step` (the step that the run resumes after, 0 for a new
    run).

    Attributes:
        module: name of the module that it imports.
        package: name under which pip installs that module.
    """

    module: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None: ...

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Record metrics of a step; `step` never decreases from call to call."""

    def close(self) -> None:
        """Flush and end; nothing is logged afterwards."""


class TrackioSink:
    """Trackio: a local dashboard (`trackio show`)."""

    module: ClassVar[str] = "trackio"
    package: ClassVar[str] = "trackio"

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


class WandbSink:
    """Weights & Biases, offline unless `WANDB_MODE` is set; `wandb sync` uploads later."""

    module: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"

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


class TensorBoardSink:
    """TensorBoard event files in the run directory."""

    module: ClassVar[str] = "tensorboardX"
    package: ClassVar[str] = "tensorboardX"

    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        from tensorboardX import SummaryWriter

        # Steps after the checkpoint that a run resumes from are logged again.
        purge = step + 1 if step else None
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
