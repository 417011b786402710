"""A disk that is full amid a run on two devices: one line, no rank is left, and the run goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from opsd_cli.training.checkpoints import Checkpoints
from tests.support.backend_fixtures import require_backend
from tests.support.cli import typed
from tests.support.processes import gone
from tests.support.ranks import done, left

TRAIN = (
    "train --quiet --backend cpu --set train.steps=2 --set train.questions_per_step=3 "
    "--set train.checkpoint_every=1 --set train.evaluate_every=2 --set train.reduce=exact "
    "--set train.passes=1 --set data.test_problems=3 --set data.validation_problems=3 "
    "--set preflight.enabled=false --set sampling.max_new_tokens=8"
)


def test_a_full_disk_ends_a_run_on_two_devices_which_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_backend("cpu")
    monkeypatch.chdir(tmp_path)
    workers: set[int] = set()
    write, written = Checkpoints.write, []

    def full(self: Checkpoints, *given: Any, **named: Any) -> Any:
        children = psutil.Process().children()
        workers.update(c.pid for c in children if "backends.parallel.worker" in c.cmdline())
        written.append(1)
        if len(written) == 3:  # after those of step 0 and 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/checkpoints")
        return write(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "write", full)
        code = typed(f"{TRAIN} --devices 2 --out run", patched)
    error = capsys.readouterr().err
    assert code == 1
    assert "error: no space left on the disk to write run/checkpoints" in error
    assert "Traceback" not in error
    assert len(workers) == 1 and all(gone(worker) for worker in workers)
    done(tmp_path, "train", "--quiet", "--resume", "--devices", "2", "--out", "run")
    done(tmp_path, *TRAIN.split(), "--out", "alone")
    assert left(tmp_path / "run") == left(tmp_path / "alone")
