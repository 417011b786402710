"""What `--resume` does to a run directory, and every reason for which it refuses.

Logs are appended to continuously, so they are usually ahead of the newest checkpoint. `rewind`
chooses the newest checkpoint that verifies, or the one that the user names, checks that the config
and the logs still hold what that checkpoint depends on, renames what is later, and truncates the
logs to the checkpoint's step. The steps in between are trained again.

`RunError` is raised here if

* the directory is not a run (`require_run`);
* the config was changed (`_require_config`);
* checkpoints are missing that once existed (`_require_untrained`);
* there is no checkpoint of the step asked for (`_candidates`);
* no checkpoint verifies, or what the chosen one depends on was lost (`_choose`);

and elsewhere if another process has the run open (`opsd_cli.files.directory_lock`), a log has a
damaged line (`opsd_cli.files.jsonl_log`), the checkpoint's state is unreadable or of another
version (`opsd_cli.training.checkpoints.state_of`, `opsd_cli.training.state`), or the base accuracy
was lost (`opsd_cli.training.measuring`). The command line refuses flags that do not go with
`--resume` (`opsd_cli.cli.train`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opsd_cli.errors import RunError
from opsd_cli.files.atomic_write import commit_staged, sha256_of
from opsd_cli.files.jsonl_log import Log
from opsd_cli.training.checkpoints import (
    DAMAGED,
    FOLDER,
    LATER,
    MANIFEST,
    Checkpoints,
    fault_of,
    manifest_of,
    step_of,
)
from opsd_cli.training.layout import (
    ANALYSES,
    BEST,
    CONFIG,
    ENVIRONMENT,
    EVALUATIONS,
    LOGS,
    METRICS,
    PREFLIGHT,
    RESULT,
)
from opsd_cli.training.seals import SEALS, seal, seals_of, unseal


def require_run(directory: Path) -> None:
    """Raise `RunError` if a directory is not a run."""
    if not (directory / CONFIG).is_file():
        raise RunError(
            f"{directory} is not a run: it has no {CONFIG}",
            "give --out the directory of the run to go on with",
        )


def finish_interrupted_writes(directory: Path) -> None:
    """Commit the staged environment of a killed creation, and delete other staging files."""
    commit_staged(directory / ENVIRONMENT)
    for torn in directory.glob(".*.partial"):
        torn.unlink()


class Rewind:
    """Takes a run that this process has locked back to one of its checkpoints.

    Attributes:
        notes: sentences for the user, about damaged or unverified checkpoints.
        kept: rows of `evaluations.jsonl` newer than the checkpoint that were measured with its
            weights, and so stay valid; the checkpoint's ledger does not include their cost.
    """

    def __init__(self, directory: Path, logs: Mapping[str, Log]) -> None:
        self.directory = directory
        self.notes: list[str] = []
        self.kept: list[dict[str, Any]] = []
        self._checkpoints = Checkpoints(directory)
        self._logs = logs

    def to(self, step: int | None = None) -> None:
        """Rewind to the newest checkpoint that verifies, or to that of `step`.

        Raises:
            RunError: see the module's docstring; nothing but interrupted renames was changed.
        """
        self._require_config()
        self._checkpoints.recover()
        candidates = self._candidates(step)
        checkpoint = self._choose(candidates, step) if candidates else None
        if checkpoint is None and CONFIG not in seals_of(self.directory):
            seal(self.directory, CONFIG)  # a kill came before it was sealed
        self._set_later_checkpoints_aside(checkpoint)
        self._truncate_logs(checkpoint)

    def look(self, step: int | None = None) -> Path | None:
        """The checkpoint that `to` would go back to, None for the beginning; changes nothing.

        Raises:
            RunError: as `to` does.
        """
        self._require_config()
        candidates = self._candidates(step)
        if not candidates or self._made_before_manifests():
            return candidates[0] if candidates else None
        return self._newest_whole(candidates, {p: fault_of(p) for p in candidates}, step)

    # -- which checkpoint ----------------------------------------------------------------------

    def _candidates(self, step: int | None) -> list[Path]:
        """The checkpoints that may be resumed from, newest first; empty before the first one."""
        standing = self._checkpoints.all()[::-1]
        if not standing:
            self._require_untrained()
            if step is not None:
                raise RunError(
                    f"{self.directory} has no checkpoint of step {step}: it has none yet",
                    "leave out --resume-from",
                )
        elif step is not None:
            standing = [path for path in standing if step_of(path) == step]
            if not standing:
                there = ", ".join(str(step_of(path)) for path in self._checkpoints.all())
                raise RunError(
                    f"{self.directory} has no checkpoint of step {step}",
                    f"there are checkpoints of steps {there}",
                )
        return standing

    def _choose(self, candidates: list[Path], step: int | None) -> Path:
        """The newest candidate that verifies; damaged newer ones are renamed."""
        if self._made_before_manifests():
            self.notes.append(
                "its checkpoints were made by an earlier version, without digests: whether they "
                "and the logs are whole is not known"
            )
            return candidates[0]
        faults = {path: fault_of(path) for path in candidates}
        chosen = self._newest_whole(candidates, faults, step)
        for path in candidates[: candidates.index(chosen)]:
            aside = self._checkpoints.set_aside(path, DAMAGED)
            self._set_result_aside()
            self.notes.append(
                f"the checkpoint of step {step_of(path)} is damaged ({faults[path]}) and was "
                f"renamed to {aside.name}; going on from step {step_of(chosen)}"
            )
        return chosen

    def _newest_whole(
        self, candidates: list[Path], faults: Mapping[Path, str | None], step: int | None
    ) -> Path:
        """The newest candidate without a fault, if what it depends on is there."""
        whole = [path for path in candidates if faults[path] is None]
        if not whole:
            first = candidates[0]
            raise RunError(
                f"no checkpoint of {self.directory} is whole; {first.name}: {faults[first]}",
                "bring it back from a copy, or start again with another --out"
                if step is None
                else "leave out --resume-from to go on from the newest whole one",
            )
        self._require_dependencies(whole[0], whole[1:])
        return whole[0]

    # -- refusals ------------------------------------------------------------------------------

    def _require_config(self) -> None:
        """Raise `RunError` if the config is not the one that the run began with."""
        sealed = seals_of(self.directory).get(CONFIG)
        if sealed is not None and sealed != sha256_of(self.directory / CONFIG):
            raise RunError(
                f"{self.directory / CONFIG} was changed since the run began",
                "bring it back as it was; for other settings start a new run with another --out",
            )

    def _require_untrained(self) -> None:
        """Raise `RunError` if the logs show that a run without checkpoints once had some."""
        rows = (row for name in (METRICS, EVALUATIONS) for row in self._logs[name].rows())
        if (
            max((row.get("step", 0) for row in rows), default=0) > 0
            or (self.directory / BEST).exists()
        ):
            raise RunError(
                f"{self.directory} has lost its checkpoints",
                f"bring {FOLDER}/ back from a copy, or start again with another --out",
            )

    def _require_dependencies(self, chosen: Path, older: list[Path]) -> None:
        """Raise `RunError` if the config or a log lacks what a checkpoint depends on."""
        lost = self._lost_since(chosen)
        if lost is None:
            return
        others = [path for path in older if self._lost_since(path) is None]
        raise RunError(
            f"{self.directory} cannot go on from step {step_of(chosen)}: {lost}",
            "bring it back from a copy, or "
            + (
                f"go back to a step that does not need it: --resume-from {step_of(others[0])}"
                if others
                else "start again with another --out (no checkpoint does without it)"
            ),
        )

    def _lost_since(self, checkpoint: Path) -> str | None:
        """What a verified checkpoint depends on and is lost, in words; None if nothing is."""
        manifest = manifest_of(checkpoint) or {}
        if manifest.get("config") != sha256_of(self.directory / CONFIG):
            return f"{CONFIG} was changed since"
        marks = manifest.get("logs", {})
        lost = [
            found
            for name, log in self._logs.items()
            if name in marks and (found := log.lost_since(marks[name]))
        ]
        seals = seals_of(self.directory)
        if not lost and checkpoint == self._checkpoints.newest():
            # A finished run's logs hold more than its newest checkpoint depends on.
            lost = [
                f"{name} was changed since the run finished"
                for name, log in self._logs.items()
                if name in seals and log.mark()["sha256"] != seals[name]
            ]
        return "; ".join(lost) or None

    def _made_before_manifests(self) -> bool:
        every = (self.directory / FOLDER).iterdir()
        return not seals_of(self.directory) and not any((p / MANIFEST).exists() for p in every)

    # -- removing what is later ----------------------------------------------------------------

    def _set_later_checkpoints_aside(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        for path in self._checkpoints.all():
            if (step_of(path) or 0) > (step_of(checkpoint) or 0):
                self._checkpoints.set_aside(path, LATER)
                self._set_result_aside()

    def _set_result_aside(self) -> None:
        """Rename the result of steps that are to be trained again, and drop its seals."""
        if (self.directory / RESULT).exists():
            (self.directory / RESULT).replace(self.directory / f"{LATER}-{RESULT}")
        if (self.directory / SEALS).exists():
            unseal(self.directory, RESULT, *LOGS)

    def _truncate_logs(self, checkpoint: Path | None) -> None:
        """Drop log rows later than the checkpoint, except those that are still valid."""
        step = step_of(checkpoint) if checkpoint is not None else None
        marks = (manifest_of(checkpoint) or {}).get("logs") if checkpoint is not None else {}
        for name, log in self._logs.items():
            ends = list(log.rows_with_ends())
            marked = 0 if marks is not None else math.inf  # in bytes
            if marks and name in marks:
                marked = marks[name]["bytes"]
            newer = [row for row, end in ends if end > marked]
            if name == EVALUATIONS and all(row["step"] <= (step or 0) for row in newer):
                # Measured after the checkpoint was written, but with its very weights: measuring
                # again after a kill would give the same rows and spend the tokens twice.
                self.kept = newer
                log.keep(row for row, _ in ends)
                continue
            reached = -1 if step is None else step
            if name == ANALYSES and step is None and (self.directory / PREFLIGHT).exists():
                # The preflight's analyses, whose tokens are counted in its record.
                reached, marked = 0, math.inf
            log.keep(row for row, end in ends if row["step"] <= reached and end <= marked)
