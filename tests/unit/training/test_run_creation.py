"""Creating a run directory: killed at any write, or on a full disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Rollout
from opsd_cli.errors import RunError
from opsd_cli.files import atomic_write
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from tests.support.training_runs import (
    Killed,
    begin,
    resume,
    run_config,
    run_contents,
)


@pytest.mark.parametrize("left", [".config.yaml.partial", ".lock", ".seals.json"])
def test_run_creation_accepts_a_directory_that_a_killed_creation_left(
    tmp_path: Path, left: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("hal")
    begin(tmp_path / "run", "train.steps=1")


@pytest.mark.parametrize("at", range(1, 9))
def test_run_creation_killed_at_any_write_can_be_repeated_or_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path, at: int
) -> None:
    """Renames and writes are counted, and the process dies at number `at`."""
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
        Run.create(directory, run_config(), {"packages": {}}).close()
    if (directory / run_directory.CONFIG).exists():
        resume(directory)
    else:
        begin(directory)
    assert run_contents(directory) == run_contents(finished_run)


def test_run_creation_on_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Iterator[Rollout]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(RunError, match="No space left on device"):
            Run.create(tmp_path / "run", run_config(), {})
    assert not (tmp_path / "run").exists()
