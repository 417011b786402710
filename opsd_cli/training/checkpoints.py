"""Checkpoints on disk: written atomically, and verified against a manifest of digests.

    checkpoints/step-000025/  adapter_model.safetensors  adapter_config.json
                              optimizer.safetensors  state.json  manifest.json

`manifest.json` is written last. It holds the SHA-256 of every other file and of the run's config,
the length and SHA-256 of each log at that moment, and its own digest. A checkpoint is written to a
hidden folder and renamed into place, so that a kill at any moment leaves either a complete
checkpoint or none. A hidden folder that is complete is recovered (`Checkpoints.recover`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from opsd_cli.errors import NotWritten, OpsdError, RunError
from opsd_cli.files.atomic_write import fsync_path, sha256_of
from opsd_cli.files.json_files import read_object

FOLDER = "checkpoints"
STATE = "state.json"
MANIFEST = "manifest.json"
#: Prefixes of checkpoints that are kept but never read again: those that failed verification, and
#: those later than the step that a run was resumed from.
DAMAGED, LATER = "damaged", "later"


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of a step, whether or not it exists."""
        return self.folder / f"step-{step:06d}"

    def all(self) -> list[Path]:
        """All checkpoints, oldest first, including damaged ones that were not renamed yet."""
        return sorted(
            (path for path in self.folder.glob("step-*") if step_of(path) is not None),
            key=lambda path: step_of(path) or 0,
        )

    def newest(self) -> Path | None:
        """The checkpoint of the highest step."""
        return max(self.all(), key=lambda path: step_of(path) or 0, default=None)

    def write(
        self,
        step: int,
        save: Callable[[Path], None],
        state: Mapping[str, Any],
        depends_on: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint atomically, replacing one of the same step.

        Args:
            save: writes adapter and optimiser into the folder that it is given.
            state: contents of `state.json`.
            depends_on: marks of the run's other files that resuming from this checkpoint needs
                unchanged; stored in the manifest.

        Returns:
            The checkpoint's folder.

        Raises:
            NotWritten: the operating system refused; an older checkpoint of the step is unchanged.
        """
        target = self.path(step)
        partial = target.with_name(f".{target.name}")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save(partial)
            (partial / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
            files = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
            manifest = {"files": files, **depends_on}
            manifest["sha256"] = _own_digest(manifest)
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            for path in partial.iterdir():
                fsync_path(path)
            _move_into_place(partial, target)
        except Exception as error:
            if isinstance(error, OpsdError) or not _is_write_error(error):
                raise
            shutil.rmtree(partial, ignore_errors=True)
            why = getattr(error, "strerror", None) or error
            raise NotWritten(
                f"cannot write the checkpoint {target}: {why}",
                "make room there, then go on with --resume",
            ) from error
        return target

    def recover(self) -> None:
        """Finish the renaming of complete hidden folders, and delete incomplete ones."""
        for partial in sorted(self.folder.glob(".step-*")):
            target = self.folder / partial.name.strip(".").removesuffix(".old")
            if not target.exists() and fault_of(partial) is None:
                partial.rename(target)
            else:
                shutil.rmtree(partial, ignore_errors=True)

    def set_aside(self, path: Path, prefix: str) -> Path:
        """Rename a checkpoint to `prefix`-`name`, with a number if that exists; the new path."""
        name = aside = path.with_name(f"{prefix}-{path.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = name.with_name(f"{name.name}-{number}")
        path.rename(aside)
        return aside

    def prune(self, keep: int, needed: Collection[int]) -> None:
        """Delete all checkpoints but the newest `keep` and those of the steps that are needed."""
        for path in self.all()[::-1][keep:]:
            if step_of(path) not in needed:
                shutil.rmtree(path)


def step_of(path: Path) -> int | None:
    """The step in a checkpoint folder's name; None for any other folder."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() and path.name.startswith("step-") else None


def manifest_of(path: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest; None if it is missing or its own digest does not match."""
    manifest = read_object(path / MANIFEST)
    if manifest is None or manifest.get("sha256") != _own_digest(manifest):
        return None
    return manifest


def _own_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's contents without its own digest."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if every file matches its digest."""
    manifest = manifest_of(path)
    if manifest is None:
        return f"its {MANIFEST} is missing or damaged"
    for name, digest in manifest["files"].items():
        try:
            now = sha256_of(path / name)
        except FileNotFoundError:
            return f"its {name} is missing"
        except OSError as error:
            return f"its {name} cannot be read: {error.strerror}"
        if now != digest:
            return f"its {name} is not what was written"
    return None


def whole_checkpoint(path: Path) -> Path:
    """The same path, after verifying the checkpoint there against its manifest.

    A checkpoint of an earlier version has no manifest and is not verified.

    Raises:
        RunError: it or a file of it is missing, or a file does not match its digest.
    """
    if not path.is_dir():
        raise RunError(
            f"the checkpoint {path} is missing", "bring it back from a copy, or start a new run"
        )
    fault = fault_of(path) if (path / MANIFEST).exists() else None
    if fault is not None:
        raise RunError(
            f"the checkpoint {path} is damaged: {fault}",
            "bring it back from a copy, or use another checkpoint of the run",
        )
    return path


def state_of(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint's state.json.

    Raises:
        RunError: the file cannot be read, or has no step.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path / STATE} cannot be read: {error}", "go on from another checkpoint"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise RunError(f"{path / STATE} holds no state", "go on from another checkpoint")
    return state


def _move_into_place(partial: Path, target: Path) -> None:
    """Rename a complete folder to its final name; an older one is kept until that is on disk."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    partial.rename(target)
    fsync_path(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _is_write_error(error: Exception) -> bool:
    # safetensors raises a class of its own on a full disk.
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
