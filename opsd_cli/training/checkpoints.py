"""A checkpoint on disk: written whole or not at all, and recognised when it is no longer whole.

    checkpoints/step-000025/  adapter_model.safetensors  adapter_config.json
                              optimizer.safetensors  state.json  manifest.json

`manifest.json` is written last. It holds the SHA-256 of every other file, of the run's config, the
length and SHA-256 of each log as far as the checkpoint counts on it, and its own digest. The folder
is filled beside its place and renamed into it; a kill at any moment leaves either the whole of it
or none, and a folder that was whole but not renamed yet is recovered.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opsd_cli.errors import NotWritten, OpsdError, RunError

FOLDER = "checkpoints"
STATE = "state.json"
MANIFEST = "manifest.json"
#: A checkpoint that is no longer whole, and a later one that was gone back from, are kept under
#: these names: nothing reads them again, and nobody loses them.
DAMAGED, LATER = "damaged", "later"


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def all(self) -> list[Path]:
        """All that stand in their places, oldest first, whole or not."""
        return sorted(
            (path for path in self.folder.glob("step-*") if step_of(path) is not None),
            key=lambda path: step_of(path) or 0,
        )

    def newest(self) -> Path | None:
        return max(self.all(), key=lambda path: step_of(path) or 0, default=None)

    def write(
        self,
        step: int,
        save: Callable[[Path], None],
        state: Mapping[str, Any],
        counts_on: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint; `save` fills the folder it is given.

        Args:
            counts_on: what of the run must still be there to go on from here; part of the manifest.

        Raises:
            NotWritten: the system would not; what was there before is left as it was.
        """
        target = self.path(step)
        partial = target.with_name(f".{target.name}")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save(partial)
            (partial / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
            files = {path.name: digest_of(path) for path in sorted(partial.iterdir())}
            manifest = {"files": files, **counts_on}
            manifest["sha256"] = _own_digest(manifest)
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            for path in partial.iterdir():
                sync(path)
            _into_place(partial, target)
        except Exception as error:
            # safetensors has an exception of its own for a disk that is full.
            if isinstance(error, OpsdError) or not _of_the_disk(error):
                raise
            shutil.rmtree(partial, ignore_errors=True)
            why = getattr(error, "strerror", None) or error
            raise NotWritten(
                f"cannot write the checkpoint {target}: {why}",
                "make room there, then go on with --resume",
            ) from error
        return target

    def recover(self) -> None:
        """Put whole checkpoints whose renaming was cut short in their places; drop the rest."""
        for partial in sorted(self.folder.glob(".step-*")):
            target = self.folder / partial.name.strip(".").removesuffix(".old")
            if not target.exists() and fault_of(partial) is None:
                partial.rename(target)
            else:
                shutil.rmtree(partial, ignore_errors=True)

    def set_aside(self, path: Path, why: str) -> Path:
        """Rename a checkpoint that is not to be used, and give its new place."""
        name = aside = path.with_name(f"{why}-{path.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = name.with_name(f"{name.name}-{number}")
        path.rename(aside)
        return aside

    def prune(self, keep: int, best_step: int) -> None:
        """Delete all but the newest `keep` and the best."""
        for path in self.all()[::-1][keep:]:
            if path != self.path(best_step):
                shutil.rmtree(path)


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's folder is named after; None for another folder."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() and path.name.startswith("step-") else None


def manifest_of(path: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest; None where there is none that can be read."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or manifest.get("sha256") != _own_digest(manifest):
        return None
    return manifest


def _own_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's contents, this very digest left out."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where every file is as it was written."""
    manifest = manifest_of(path)
    if manifest is None:
        return f"its {MANIFEST} is missing or damaged"
    for name, digest in manifest["files"].items():
        try:
            now = digest_of(path / name)
        except FileNotFoundError:
            return f"its {name} is missing"
        except OSError as error:
            return f"its {name} cannot be read: {error.strerror}"
        if now != digest:
            return f"its {name} is not what was written"
    return None


def whole_checkpoint(path: Path) -> Path:
    """The path, where the checkpoint there is whole as far as can be known.

    Raises:
        RunError: a file is missing or is not what was written. (A checkpoint of an earlier version
            has no manifest to hold it against.)
    """
    fault = fault_of(path) if (path / MANIFEST).exists() else None
    if fault is not None:
        raise RunError(
            f"the checkpoint {path} is damaged: {fault}",
            "bring it back from a copy, or use another checkpoint of the run",
        )
    return path


def state_of(path: Path) -> dict[str, Any]:
    """What a checkpoint's state.json holds; raises `RunError` where it cannot be read."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path / STATE} cannot be read: {error}", "go on from another checkpoint"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise RunError(f"{path / STATE} holds no state", "go on from another checkpoint")
    return state


def digest_of(path: Path) -> str:
    """SHA-256 of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems refuse to sync directories
            raise
    finally:
        os.close(handle)


def _into_place(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    partial.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
