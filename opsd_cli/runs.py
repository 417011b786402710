"""A run directory: made once, locked while in use, and never half-written.

    config.yaml  environment.json  metrics.jsonl  rollouts.jsonl  evaluations.jsonl
    checkpoints/step-000025/  best  result.json  report.html

A checkpoint is written beside its place and renamed into it, so that a kill at any moment leaves
either the whole of it or none. The logs are appended to as the run goes and may run ahead of the
newest checkpoint; resuming cuts them back to it, and the steps in between are run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from opsd_cli.config import Config
from opsd_cli.disk import naming
from opsd_cli.errors import RunError
from opsd_cli.resolve import read_tree, to_yaml, validate

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts.jsonl"
EVALUATIONS = "evaluations.jsonl"
RESULT = "result.json"
BEST = "best"
STATE = "state.json"
LOCK = ".lock"
LOGS = (METRICS, ROLLOUTS, EVALUATIONS)


def default_directory(config: Config, root: Path = Path("runs")) -> Path:
    """A fresh name such as runs/20261123-094500-opsd-embedded-s0."""
    model = Path(config.model).name or "model"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.method}-{model}-s{config.seed}"
    candidates = (root / (name if not n else f"{name}-{n}") for n in range(10_000))
    return next(path for path in candidates if not path.exists())


class Run:
    """An open run directory. Use as a context manager, or call `close` to release its lock."""

    def __init__(self, directory: Path, config: Config, fresh: bool = False) -> None:
        self.directory = directory
        self.config = config
        self._fresh = fresh
        self._lock = hold(directory)

    @classmethod
    def create(cls, directory: Path | None, config: Config, environment: Mapping[str, Any]) -> Run:
        """A new run.

        Raises:
            RunError: the directory holds a run or anything else already, or cannot be made.
        """
        directory = directory or default_directory(config)
        refuse_used(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(directory / CONFIG, to_yaml(config))
            write_whole(directory / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
        except OSError as error:
            raise RunError(
                f"cannot write to {directory}: {error.strerror}", "give another --out DIR"
            ) from error
        return cls(directory, config, fresh=True)

    @classmethod
    def resume(cls, directory: Path) -> Run:
        """Open an existing run and cut its logs back to the newest checkpoint.

        Raises:
            RunError: there is no run there, or another process is using it.
        """
        if not (directory / CONFIG).is_file():
            raise RunError(
                f"{directory} is not a run: it has no {CONFIG}",
                "give --out the directory of the run to go on with",
            )
        run = cls(directory, validate(read_tree(directory / CONFIG)))
        for partial in (directory / "checkpoints").glob(".step-*"):
            shutil.rmtree(partial)
        run.truncate_logs(run.state()["step"] if run.latest() else -1)
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close; a new run that failed before its first checkpoint leaves nothing behind."""
        self.close()
        if error is not None and self._fresh and self.latest() is None:
            for name in (CONFIG, ENVIRONMENT, *LOGS, LOCK):
                (self.directory / name).unlink(missing_ok=True)
            shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else's file came in meanwhile
                self.directory.rmdir()

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def add_environment(self, later: Mapping[str, Any]) -> None:
        """Note in environment.json that the run went on elsewhere."""
        path = self.directory / ENVIRONMENT
        known = json.loads(path.read_text(encoding="utf-8"))
        known["later"] = [*known.get("later", []), dict(later)]
        write_whole(path, json.dumps(known, indent=2) + "\n")

    def append(self, log: str, row: Mapping[str, Any]) -> None:
        """Add one line to a log and hand it to the operating system."""
        path = self.directory / log
        with naming(path), path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")

    def rows(self, log: str) -> Iterator[dict[str, Any]]:
        """The whole lines of a log; a line cut short by a kill is left out."""
        return read_rows(self.directory / log)

    def truncate_logs(self, step: int) -> None:
        """Keep only rows up to and including a step."""
        for log in LOGS:
            if (self.directory / log).exists():
                kept = [row for row in self.rows(log) if row["step"] <= step]
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
                write_whole(self.directory / log, text)

    def checkpoint_path(self, step: int) -> Path:
        return self.directory / "checkpoints" / f"step-{step:06d}"

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return max((self.directory / "checkpoints").glob("step-*"), default=None)

    def best(self) -> Path | None:
        """The checkpoint chosen on validation."""
        return best_checkpoint(self.directory)

    def state(self) -> dict[str, Any]:
        """The newest checkpoint's state; raises `RunError` where there is none."""
        latest = self.latest()
        if latest is None:
            raise RunError(f"{self.directory} has no checkpoint", "start again with another --out")
        return json.loads((latest / STATE).read_text(encoding="utf-8"))

    def write_checkpoint(
        self, step: int, save: Callable[[Path], None], state: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint whole or not at all; `save` fills the folder it is given."""
        target = self.checkpoint_path(step)
        partial = target.with_name(f".{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with naming(target):
            save(partial)
            (partial / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        for path in partial.iterdir():
            _sync(path)
        old = target.with_name(f".{target.name}.old")
        if target.exists():
            target.rename(old)
        partial.rename(target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
        return target

    def mark_best(self, step: int) -> None:
        """Name the best checkpoint."""
        write_whole(self.directory / BEST, self.checkpoint_path(step).name + "\n")

    def prune(self, keep: int, best_step: int) -> None:
        """Delete all but the newest `keep` checkpoints and the best."""
        newest = sorted((self.directory / "checkpoints").glob("step-*"), reverse=True)
        for path in newest[keep:]:
            if path != self.checkpoint_path(best_step):
                shutil.rmtree(path)


def refuse_used(directory: Path) -> None:
    """Raise `RunError`, with the ways out, where a directory is not free for a new run."""
    if directory.is_file():
        raise RunError(f"{directory} is a file", "give --out a directory")
    if not directory.exists() or not any(directory.iterdir()):
        return
    if (directory / CONFIG).exists():
        raise RunError(
            f"{directory} already holds a run",
            f"go on with it (--resume --out {directory}), write elsewhere (another --out), "
            "or move it away first",
        )
    raise RunError(f"{directory} is not empty", "give --out a new or empty directory")


def best_checkpoint(directory: Path) -> Path | None:
    """The checkpoint that a run directory's `best` file names, if it is there."""
    named = directory / BEST
    if not named.is_file():
        return None
    path = directory / "checkpoints" / named.read_text(encoding="utf-8").strip()
    return path if path.is_dir() else None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL log; a last line cut short by a kill is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def write_whole(path: Path, text: str) -> None:
    """Replace a file's contents, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with naming(path):
        partial.write_text(text, encoding="utf-8")
    _sync(partial)
    partial.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems refuse to sync directories
        pass
    finally:
        os.close(handle)


def hold(directory: Path) -> IO[str]:
    """Hold the directory for this process; the system lets go of it however the process ends."""
    handle = (directory / LOCK).open("w")
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks to hold
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise RunError(
            f"another process is using {directory}", "wait for it, or stop it first"
        ) from error
    return handle
