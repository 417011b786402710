"""Commands that share their work among processes, and what their runs leave."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

from backends.interface import Policy
from opsd_cli.processes.child_processes import OPSD, package_environment
from tests.support.processes import PATIENCE_SECONDS
from tests.support.training_runs import run_contents

#: Loads a tiny model on so many ranks, with sections of the config as keyword arguments.
Loaded = Callable[..., AbstractContextManager[Policy]]

#: What tells of the machine and the clock, or is made from it.
MASKED = ("environment.json", "report.html")


def start(
    folder: Path, *words: str, launcher: tuple[str, ...] = (), start_new_session: bool = False
) -> subprocess.Popen[str]:
    command = [*(launcher or OPSD), *words]
    return subprocess.Popen(
        command, cwd=folder, env=package_environment() | {"OMP_NUM_THREADS": "1"}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        restore_signals=True, start_new_session=start_new_session,
    )  # fmt: skip


def done(folder: Path, *words: str, launcher: tuple[str, ...] = ()) -> str:
    """Run a command to its end; returns its standard output."""
    process = start(folder, *words, launcher=launcher)
    output, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, error
    return output


def left(run: Path) -> dict[str, Any]:
    """What a run leaves, but for memory, time and machine."""
    found = run_contents(run, MASKED)
    for row in found["metrics.jsonl"]:
        del row["memory_peak"]
    return found


def workers_of(process: subprocess.Popen[str], number: int = 1) -> list[psutil.Process]:
    """The workers that a command has started, once so many run."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children()
        found = [c for c in children if "backends.parallel.worker" in c.cmdline()]
        if len(found) >= number:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no worker was started: {process.communicate()}")


def after_checkpoint(run: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (run / f"checkpoints/step-{step:06}").is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.02)
