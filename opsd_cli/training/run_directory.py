"""A run directory: made once, locked while in use, never half-written, checked when gone on with.

    config.yaml  environment.json  metrics.jsonl  rollouts.jsonl  evaluations.jsonl
    preflight.json  checkpoints/step-000025/  best  result.json  report.html

The logs are appended to as the run goes and may run ahead of the newest checkpoint. Resuming
(`Run.resume`) goes back to the newest checkpoint that is whole, checks that the config and all that
the logs held at that moment are still there, and cuts the logs back to it; the steps in between are
run again. What cannot be gone on with is refused, and the refusal says what is lost.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from opsd_cli.config.resolve import read_tree, to_yaml, validate
from opsd_cli.config.schema import Config
from opsd_cli.errors import Interrupted, RunError
from opsd_cli.files.jsonl_log import Log, read_rows
from opsd_cli.files.whole_files import (
    LOCK,
    hold,
    partial_of,
    prepare,
    put_in_place,
    read_object,
    write_whole,
)
from opsd_cli.training.checkpoints import (
    DAMAGED,
    FOLDER,
    LATER,
    MANIFEST,
    STATE,
    Checkpoints,
    digest_of,
    fault_of,
    manifest_of,
    state_of,
    step_of,
)

#: Used by many as `runs.NAME`.
__all__ = [
    "DAMAGED", "LATER", "LOCK", "STATE", "Run", "best_checkpoint", "hold", "read_object",
    "read_rows", "refuse_used", "write_whole",
]  # fmt: skip

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts.jsonl"
EVALUATIONS = "evaluations.jsonl"
#: The analyses that a reason-first teacher wrote; only such runs have it.
ANALYSES = "analyses.jsonl"
PREFLIGHT = "preflight.json"
RESULT = "result.json"
BEST = "best"
#: Digests of what is written once: the config at the start, the result at the end.
SEALS = ".seals.json"
#: Samples of the evaluation under way.
UNFINISHED = ".evaluation.jsonl"
#: What makes a directory an evaluation's.
EVALUATION = "evaluation.json"
LOGS = (METRICS, ROLLOUTS, EVALUATIONS, ANALYSES)


def default_directory(config: Config, root: Path = Path("runs")) -> Path:
    """A fresh name such as runs/20261123-094500-opsd-embedded-s0."""
    model = Path(config.model).name or "model"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.method}-{model}-s{config.seed}"
    candidates = (root / (name if not n else f"{name}-{n}") for n in range(10_000))
    return next(path for path in candidates if not path.exists())


class Run:
    """An open run directory. Use as a context manager, or call `close` to release its lock.

    Attributes:
        notes: what resuming found that its user should know.
        kept: rows of `evaluations.jsonl` that are newer than the checkpoint and still hold: their
            cost is not in the checkpoint's state.
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
        """A new run.

        Raises:
            RunError: the directory holds a run or anything else already, or cannot be made.
        """
        directory = directory or default_directory(config)
        refuse_used(directory)
        new, lock = not directory.exists(), None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = hold(directory)
            prepare(directory / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
            # From the moment its config is there, the directory holds a run.
            write_whole(directory / CONFIG, to_yaml(config))
            put_in_place(directory / ENVIRONMENT)
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
        """Open an existing run and cut its logs back to the newest whole checkpoint.

        Args:
            step: go back to this checkpoint instead.

        Raises:
            RunError: there is no run there, another process is using it, no checkpoint is whole, or
                what a checkpoint counts on is lost.
        """
        if not (directory / CONFIG).is_file():
            raise RunError(
                f"{directory} is not a run: it has no {CONFIG}",
                "give --out the directory of the run to go on with",
            )
        lock = hold(directory)
        try:
            put_in_place(directory / ENVIRONMENT)
            for torn in directory.glob(".*.partial"):  # of a write that was cut short
                torn.unlink()
            run = cls(directory, validate(read_tree(directory / CONFIG)), lock)
            run._require_config()
            run.checkpoints.recover()
            checkpoint = run._checkpoint_to_go_on_from(step)
            if checkpoint is None and CONFIG not in _seals(directory):
                seal(directory, CONFIG)  # killed before it was
            run._go_back(checkpoint)
        except BaseException:
            lock.close()
            raise
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close; a new run that failed before its first checkpoint leaves nothing behind.

        One that its user stopped keeps the measurements it has made.
        """
        self.close()
        if error is None or not self._fresh or self.latest() is not None:
            return
        made = any((self.directory / n).exists() for n in (EVALUATIONS, PREFLIGHT, UNFINISHED))
        if issubclass(error, Interrupted) or (issubclass(error, KeyboardInterrupt) and made):
            return
        ours = (CONFIG, ENVIRONMENT, PREFLIGHT, UNFINISHED, SEALS, *LOGS, LOCK)
        for name in ours:
            (self.directory / name).unlink(missing_ok=True)
        shutil.rmtree(self.directory / FOLDER, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else's file came in meanwhile
            self.directory.rmdir()

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    # -- what the run ran on -------------------------------------------------------------------

    def environment(self) -> dict[str, Any] | None:
        """What environment.json holds; None where it is missing or damaged."""
        return read_object(self.directory / ENVIRONMENT)

    def add_environment(self, later: Mapping[str, Any]) -> None:
        """Note in environment.json that the run went on elsewhere, or that the file was lost."""
        known = self.environment()
        if known is None:
            known = {"lost": "the environment in which the run began is not known any more"}
        known["later"] = [*known.get("later", []), dict(later)]
        write_whole(self.directory / ENVIRONMENT, json.dumps(known, indent=2) + "\n")

    def sealed(self, name: str) -> dict[str, Any] | None:
        """The JSON object in a file that was written once; None where it is not as it was."""
        path = self.directory / name
        found = read_object(path)
        if found is None or _seals(self.directory).get(name) != digest_of(path):
            return None
        return found

    def write_sealed(self, name: str, value: Mapping[str, Any]) -> None:
        """Write such a file."""
        write_whole(self.directory / name, json.dumps(value, indent=1) + "\n")
        seal(self.directory, name)

    # -- logs ----------------------------------------------------------------------------------

    def append(self, log: str, *rows: Mapping[str, Any]) -> None:
        """Add lines to a log and hand them to the operating system."""
        self._logs[log].append(*rows)

    def rows(self, log: str) -> Iterator[dict[str, Any]]:
        """The whole lines of a log; a line cut short by a kill is left out."""
        return self._logs[log].rows()

    # -- checkpoints ---------------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints.path(step)

    def latest(self) -> Path | None:
        """The newest checkpoint; after `resume`, the one to go on from."""
        return self.checkpoints.newest()

    def state(self) -> dict[str, Any]:
        """The newest checkpoint's state; raises `RunError` where there is none."""
        latest = self.latest()
        if latest is None:
            raise RunError(f"{self.directory} has no checkpoint", "start again with another --out")
        return state_of(latest)

    def write_checkpoint(
        self, step: int, save: Callable[[Path], None], state: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint whole or not at all; `save` fills the folder it is given.

        The logs are on the disk before it is, since it counts on them.
        """
        for log in self._logs.values():
            log.sync()
        counts_on = {
            "config": digest_of(self.directory / CONFIG),
            "logs": {name: log.mark() for name, log in self._logs.items()},
        }
        return self.checkpoints.write(step, save, state, counts_on)

    def mark_best(self, step: int) -> None:
        """Name the best checkpoint."""
        path, text = self.directory / BEST, self.checkpoint_path(step).name + "\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text)

    def prune(self, keep: int, best_step: int) -> None:
        """Delete all but the newest `keep` checkpoints and the best."""
        self.checkpoints.prune(keep, best_step)

    # -- the result ----------------------------------------------------------------------------

    def result(self) -> dict[str, Any] | None:
        """What result.json holds; None where the run has not finished or the file is damaged."""
        found = result_of(self.directory)
        if found is None and (self.directory / RESULT).exists():
            self.notes.append(f"{RESULT} is not what was written; it is made anew from the logs")
        return found

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json: the run has finished, and its logs do not change any more."""
        for log in self._logs.values():
            log.sync()
        write_whole(self.directory / RESULT, json.dumps(result, indent=1) + "\n")
        self._seal_finished()

    def finish_sealing(self) -> None:
        """Seal a finished run that was killed before it was. One of an earlier version has no
        seals, and gets none: its checkpoints have no digests either."""
        seals = _seals(self.directory)
        if seals and RESULT not in seals:
            self._seal_finished()

    def _seal_finished(self) -> None:
        logs = (name for name in LOGS if (self.directory / name).exists())
        seal(self.directory, RESULT, *logs)

    # -- going on ------------------------------------------------------------------------------

    def _checkpoint_to_go_on_from(self, step: int | None) -> Path | None:
        """The newest whole checkpoint, or that of `step`; None where the run has none yet."""
        standing = self.checkpoints.all()[::-1]
        if not standing:
            self._require_untrained()
            if step is not None:
                raise RunError(
                    f"{self.directory} has no checkpoint of step {step}: it has none yet",
                    "leave out --resume-from",
                )
            return None
        if step is not None:
            standing = [path for path in standing if step_of(path) == step]
            if not standing:
                there = ", ".join(str(step_of(path)) for path in self.checkpoints.all())
                raise RunError(
                    f"{self.directory} has no checkpoint of step {step}",
                    f"there are checkpoints of steps {there}",
                )
        if self._made_before_manifests():
            self.notes.append(
                "its checkpoints were made by an earlier version, without digests: whether they "
                "and the logs are whole is not known"
            )
            return standing[0]
        faults = {path: fault_of(path) for path in standing}
        whole = [path for path in standing if faults[path] is None]
        if not whole:
            first = standing[0]
            raise RunError(
                f"no checkpoint of {self.directory} is whole; {first.name}: {faults[first]}",
                "bring it back from a copy, or start again with another --out"
                if step is None
                else "leave out --resume-from to go on from the newest whole one",
            )
        chosen = whole[0]
        lost = self._lost_since(chosen)
        if lost is not None:
            others = [path for path in whole[1:] if self._lost_since(path) is None]
            raise RunError(
                f"{self.directory} cannot go on from step {step_of(chosen)}: {lost}",
                "bring it back from a copy, or "
                + (
                    f"go back to a step that does not need it: --resume-from {step_of(others[0])}"
                    if others
                    else "start again with another --out (no checkpoint does without it)"
                ),
            )
        for path in standing[: standing.index(chosen)]:
            aside = self.checkpoints.set_aside(path, DAMAGED)
            self._put_by_result()
            self.notes.append(
                f"the checkpoint of step {step_of(path)} is damaged ({faults[path]}) and was "
                f"renamed to {aside.name}; going on from step {step_of(chosen)}"
            )
        return chosen

    def _lost_since(self, checkpoint: Path) -> str | None:
        """What a whole checkpoint counts on that is no longer there, in words."""
        manifest = manifest_of(checkpoint) or {}
        if manifest.get("config") != digest_of(self.directory / CONFIG):
            return f"{CONFIG} was changed since"
        marks = manifest.get("logs", {})
        lost = [
            found
            for name, log in self._logs.items()
            if name in marks and (found := log.lost_since(marks[name]))
        ]
        seals = _seals(self.directory)
        if not lost and checkpoint == self.checkpoints.newest():
            # A finished run's logs hold more than its newest checkpoint counts on.
            lost = [
                f"{name} was changed since the run finished"
                for name, log in self._logs.items()
                if name in seals and log.mark()["sha256"] != seals[name]
            ]
        return "; ".join(lost) or None

    def _go_back(self, checkpoint: Path | None) -> None:
        """Put aside and cut what is newer than a checkpoint, keeping what still holds."""
        step = step_of(checkpoint) if checkpoint is not None else None
        for path in self.checkpoints.all():
            if step is not None and (step_of(path) or 0) > step:
                self.checkpoints.set_aside(path, LATER)
                self._put_by_result()
        marks = (manifest_of(checkpoint) or {}).get("logs") if checkpoint is not None else {}
        for name, log in self._logs.items():
            ends = list(log.rows_with_ends())
            sealed = 0 if marks is not None else math.inf
            if marks and name in marks:
                sealed = marks[name]["bytes"]
            newer = [row for row, end in ends if end > sealed]
            if name == EVALUATIONS and all(row["step"] <= (step or 0) for row in newer):
                # Measured since, with these very weights: a kill must not have it done twice.
                self.kept = newer
                log.keep(row for row, _ in ends)
                continue
            reached = -1 if step is None else step
            if name == ANALYSES and step is None and (self.directory / PREFLIGHT).exists():
                reached, sealed = 0, math.inf  # the preflight's, which are paid for in its record
            log.keep(row for row, end in ends if row["step"] <= reached and end <= sealed)

    def _put_by_result(self) -> None:
        """A result of steps that are to be run again is none any more."""
        if (self.directory / RESULT).exists():
            (self.directory / RESULT).replace(self.directory / f"{LATER}-{RESULT}")
        if (self.directory / SEALS).exists():
            write_whole(self.directory / SEALS, "{}\n")
            seal(self.directory, CONFIG)

    def _made_before_manifests(self) -> bool:
        every = (self.directory / FOLDER).iterdir()
        return not _seals(self.directory) and not any((p / MANIFEST).exists() for p in every)

    def _require_config(self) -> None:
        """Raise `RunError` where the config is not the one that the run began with."""
        sealed = _seals(self.directory).get(CONFIG)
        if sealed is not None and sealed != digest_of(self.directory / CONFIG):
            raise RunError(
                f"{self.directory / CONFIG} was changed since the run began",
                "bring it back as it was; for other settings start a new run with another --out",
            )

    def _require_untrained(self) -> None:
        """Raise `RunError` where a run without a checkpoint once had some."""
        steps = [row.get("step", 0) for log in (METRICS, EVALUATIONS) for row in self.rows(log)]
        if max(steps, default=0) > 0 or (self.directory / BEST).exists():
            raise RunError(
                f"{self.directory} has lost its checkpoints",
                f"bring {FOLDER}/ back from a copy, or start again with another --out",
            )


def result_of(directory: Path) -> dict[str, Any] | None:
    """What a run's result.json holds; None where it has not finished, or the file is damaged."""
    path = directory / RESULT
    found = read_object(path)
    sealed = _seals(directory).get(RESULT)
    return None if found is None or (sealed and sealed != digest_of(path)) else found


def refuse_used(directory: Path) -> None:
    """Raise `RunError`, with the ways out, where a directory is not free for a new run."""
    if directory.is_file():
        raise RunError(f"{directory} is a file", "give --out a directory")
    if not directory.exists() or all(path.name in LEFTOVERS for path in directory.iterdir()):
        return
    if (directory / CONFIG).exists() and not (directory / EVALUATION).exists():
        raise RunError(
            f"{directory} already holds a run",
            f"go on with it (--resume --out {directory}), write elsewhere (another --out), "
            "or move it away first",
        )
    if (directory / EVALUATION).exists():
        raise RunError(
            f"{directory} already holds an evaluation",
            f"go on with it (opsd eval --resume --out {directory}), write elsewhere (another "
            "--out), or move it away first",
        )
    raise RunError(f"{directory} is not empty", "give --out a new or empty directory")


def best_checkpoint(directory: Path) -> Path | None:
    """The checkpoint that was chosen on validation, if it is there.

    The newest checkpoint's state says which; the `best` file, written after it for people and
    scripts, may be one behind where the run was killed in between.
    """
    checkpoints = Checkpoints(directory)
    newest = checkpoints.newest()
    state = read_object(newest / STATE) if newest is not None else None
    if state is not None and isinstance(state.get("best_step"), int):
        path = checkpoints.path(state["best_step"])
        if path.is_dir():
            return path
    named = directory / BEST
    if not named.is_file():
        return None
    name = named.read_text(encoding="utf-8", errors="replace").strip()
    if step_of(Path(name)) is None:
        return None
    path = directory / FOLDER / name
    return path if path.is_dir() else None


def seal(directory: Path, *names: str) -> None:
    """Note the digests of files that are not to change any more."""
    seals = _seals(directory) | {name: digest_of(directory / name) for name in names}
    write_whole(directory / SEALS, json.dumps(seals, indent=1) + "\n")


def _seals(directory: Path) -> dict[str, Any]:
    return read_object(directory / SEALS) or {}


#: What a creation that was killed leaves behind: a directory with nothing else is free.
LEFTOVERS = {
    LOCK,
    SEALS,
    *(partial_of(Path(name)).name for name in (CONFIG, ENVIRONMENT, SEALS, EVALUATION)),
}
