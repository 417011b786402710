"""An open run directory: created once, locked while open, every file of it written atomically.

`Run` is what training writes through: logs, checkpoints, sealed files and the result. The files'
names and what can be read without opening a run are in `opsd_cli.training.layout`, resuming and all
its refusals in `opsd_cli.training.resume`, checkpoints in `opsd_cli.training.checkpoints`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from opsd_cli.config.resolve import to_yaml, validate
from opsd_cli.config.schema import Config
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.errors import Interrupted, RunError
from opsd_cli.files.atomic_write import commit_staged, sha256_of, stage, write_atomic
from opsd_cli.files.directory_lock import LOCK, lock_directory
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import Log, read_rows
from opsd_cli.training import resume
from opsd_cli.training.checkpoints import FOLDER, STATE, Checkpoints, state_of
from opsd_cli.training.extension import with_extension
from opsd_cli.training.layout import (
    ANALYSES,
    BEST,
    CONFIG,
    ENVIRONMENT,
    EVALUATIONS,
    LOGS,
    METRICS,
    PREFLIGHT,
    PREFLIGHT_SAMPLES,
    RESULT,
    ROLLOUTS,
    UNFINISHED,
    best_checkpoint,
    make_default_directory,
    refuse_used,
    result_of,
)
from opsd_cli.training.seals import SEALS, read_sealed, seal, seals_of

#: Importers say `run_directory.METRICS`: the layout's names are part of this module's.
__all__ = [
    "ANALYSES", "BEST", "CONFIG", "ENVIRONMENT", "EVALUATIONS", "LOCK", "LOGS", "METRICS",
    "PREFLIGHT", "PREFLIGHT_SAMPLES", "RESULT", "ROLLOUTS", "SEALS", "STATE", "UNFINISHED", "Run",
    "best_checkpoint", "make_default_directory", "read_object", "read_rows", "refuse_used",
    "result_of",
]  # fmt: skip


PREFLIGHT_FILES = (PREFLIGHT, PREFLIGHT_SAMPLES)


class Run:
    """An open run directory. Use as a context manager, or call `close` to release its lock.

    Attributes:
        notes: what resuming found that its user should know.
        kept: rows of `evaluations.jsonl` that are newer than the checkpoint and still valid; the
            checkpoint's ledger does not include their cost.
    """

    def __init__(
        self, directory: Path, config: Config, lock: IO[str], *, fresh: bool = False
    ) -> None:
        self.directory = directory
        self.config = config
        self.checkpoints = Checkpoints(directory)
        self.notes: list[str] = []
        self.kept: list[dict[str, Any]] = []
        self._fresh = fresh
        self._lock = lock
        self._logs = {name: Log(directory / name) for name in LOGS}

    @classmethod
    def create(cls, directory: Path | None, config: Config, environment: Mapping[str, Any]) -> Run:
        """Create a run directory and open it.

        Args:
            directory: a missing or empty directory; None makes one (`make_default_directory`).
            environment: contents of environment.json.

        Raises:
            RunError: the directory is not empty, or cannot be made or written to.
        """
        new, lock = directory is None or not directory.exists(), None
        if directory is None:
            try:
                directory = make_default_directory(config)
            except OSError as error:
                raise RunError(
                    f"cannot write to {error.filename}: {error.strerror}", "give another --out DIR"
                ) from error
        refuse_used(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = lock_directory(directory)
            stage(directory / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
            # A directory with a config is a run; after a kill here resuming commits the rest.
            write_atomic(directory / CONFIG, to_yaml(config))
            commit_staged(directory / ENVIRONMENT)
            seal(directory, CONFIG)
        except BaseException as error:
            if lock is not None:
                lock.close()
            if new and isinstance(error, (OSError, RunError, KeyboardInterrupt)):
                shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, OSError):
                raise RunError(
                    f"cannot write to {directory}: {error.strerror}", "give another --out DIR"
                ) from error
            raise
        return cls(directory, config, lock, fresh=True)

    @classmethod
    def resume(cls, directory: Path, step: int | None = None) -> Run:
        """Open an existing run, rewound to its newest checkpoint that verifies.

        Args:
            step: rewind to the checkpoint of this step instead.

        Raises:
            RunError: for the reasons listed in `opsd_cli.training.resume`.
        """
        resume.require_run(directory)
        lock = lock_directory(directory)
        try:
            resume.finish_interrupted_writes(directory)
            config = with_extension(directory, validate(read_tree(directory / CONFIG)))
            run = cls(directory, config, lock)
            rewind = resume.Rewind(directory, run._logs)
            rewind.to(step)
            run.notes, run.kept = rewind.notes, rewind.kept
        except BaseException:
            lock.close()
            raise
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close; a new run that failed before its first checkpoint is deleted.

        One that its user interrupted after a measurement is kept.
        """
        self.close()
        if error is None or not self._fresh or self.latest() is not None:
            return
        measured = any((self.directory / n).exists() for n in (EVALUATIONS, PREFLIGHT, UNFINISHED))
        if issubclass(error, Interrupted) or (issubclass(error, KeyboardInterrupt) and measured):
            return
        ours = (CONFIG, ENVIRONMENT, *PREFLIGHT_FILES, UNFINISHED, SEALS, *LOGS, LOCK)
        for name in ours:
            (self.directory / name).unlink(missing_ok=True)
        shutil.rmtree(self.directory / FOLDER, ignore_errors=True)
        with contextlib.suppress(OSError):  # another program has put a file there meanwhile
            self.directory.rmdir()

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    # -- environment and sealed files ----------------------------------------------------------

    def environment(self) -> dict[str, Any] | None:
        """The contents of environment.json; None if it is missing or damaged."""
        return read_object(self.directory / ENVIRONMENT)

    def add_environment(self, later: Mapping[str, Any]) -> None:
        """Append to environment.json where the run was resumed, or that the file was lost."""
        known = self.environment()
        if known is None:
            known = {"lost": "the environment in which the run began is not known any more"}
        known["later"] = [*known.get("later", []), dict(later)]
        write_atomic(self.directory / ENVIRONMENT, json.dumps(known, indent=2) + "\n")

    def sealed(self, name: str) -> dict[str, Any] | None:
        """The JSON object in a sealed file; None if the file is missing or was changed."""
        return read_sealed(self.directory, name)

    def write_sealed(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file that must not change any more, and record its digest."""
        write_atomic(self.directory / name, json.dumps(value, indent=1) + "\n")
        seal(self.directory, name)

    def keep_failed_preflight(self) -> Path | None:
        """Keep the record and the samples of a preflight that failed.

        A new run's directory is deleted when the run fails, so that the command can be repeated;
        the two files are then copied to a new directory beside it.

        Returns:
            The directory that holds them; None if they could not be copied.
        """
        if not self._fresh:
            return self.directory
        own = self.directory if self.directory.name not in ("", "..") else self.directory.resolve()
        for number in itertools.count(1):
            suffix = f"-{number}" if number > 1 else ""
            kept = own.with_name(f"{own.name}-failed-preflight{suffix}")
            try:
                kept.mkdir()
                for name in PREFLIGHT_FILES:
                    shutil.copyfile(self.directory / name, kept / name)
            except FileExistsError:  # of an earlier failure
                continue
            except OSError:
                shutil.rmtree(kept, ignore_errors=True)
                return None
            return kept
        return None

    # -- logs ----------------------------------------------------------------------------------

    def append(self, log: str, *rows: Mapping[str, Any]) -> None:
        """Append rows to a log; raises `NotWritten` if the operating system refuses."""
        self._logs[log].append(*rows)

    def rows(self, log: str) -> Iterator[dict[str, Any]]:
        """The complete rows of a log; an incomplete last line, left by a kill, is skipped."""
        return self._logs[log].rows()

    # -- checkpoints ---------------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        """The folder of the checkpoint of a step, whether or not it exists."""
        return self.checkpoints.path(step)

    def latest(self) -> Path | None:
        """The newest checkpoint; after `resume`, the one that training continues from."""
        return self.checkpoints.newest()

    def state(self) -> dict[str, Any]:
        """The newest checkpoint's state; raises `RunError` if there is none."""
        latest = self.latest()
        if latest is None:
            raise RunError(f"{self.directory} has no checkpoint", "start again with another --out")
        return state_of(latest)

    def write_checkpoint(
        self, step: int, save: Callable[[Path], None], state: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint atomically, after syncing the logs that it depends on.

        Args:
            save: writes adapter and optimiser into the folder that it is given.
            state: contents of its state.json.

        Returns:
            The checkpoint's folder.

        Raises:
            NotWritten: the operating system refused; an older checkpoint of the step is unchanged.
        """
        for log in self._logs.values():
            log.sync()
        depends_on = {
            "config": sha256_of(self.directory / CONFIG),
            "logs": {name: log.mark() for name, log in self._logs.items()},
        }
        return self.checkpoints.write(step, save, state, depends_on)

    def mark_best(self, step: int) -> None:
        """Write the name of the best checkpoint to `best`, if it is not there already."""
        path, text = self.directory / BEST, self.checkpoint_path(step).name + "\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomic(path, text)

    def prune(self, keep: int, needed: Collection[int]) -> None:
        """Delete all checkpoints but the newest `keep` and those of the steps that are needed."""
        self.checkpoints.prune(keep, needed)

    # -- the result ----------------------------------------------------------------------------

    def result(self) -> dict[str, Any] | None:
        """The contents of result.json; None if the run has not finished or the file is damaged."""
        found = result_of(self.directory)
        if found is None and (self.directory / RESULT).exists():
            self.notes.append(f"{RESULT} is not what was written; it is rebuilt from the logs")
        return found

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json and seal it with the logs: the run has finished."""
        for log in self._logs.values():
            log.sync()
        write_atomic(self.directory / RESULT, json.dumps(result, indent=1) + "\n")
        self._seal_finished()

    def finish_sealing(self) -> None:
        """Seal a finished run that was killed before it was sealed.

        A run of an earlier version has no seals, and gets none: its checkpoints have no digests
        either.
        """
        seals = seals_of(self.directory)
        if seals and RESULT not in seals:
            self._seal_finished()

    def _seal_finished(self) -> None:
        logs = (name for name in LOGS if (self.directory / name).exists())
        seal(self.directory, RESULT, *logs)
