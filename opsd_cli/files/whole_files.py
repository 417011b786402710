"""Files that are replaced whole or not at all, and the lock of a directory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from opsd_cli.errors import NotWritten, RunError
from opsd_cli.training.checkpoints import sync

LOCK = ".lock"


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_whole(path: Path, text: str) -> None:
    """Replace a file's contents, whole or not at all.

    Raises:
        NotWritten: the system would not; what was there before is left as it was.
    """
    prepare(path, text)
    with _written(path):
        partial_of(path).replace(path)


def prepare(path: Path, text: str) -> None:
    """Write what `put_in_place` makes a file's contents, once something else is there too."""
    with _written(path):
        partial_of(path).write_text(text, encoding="utf-8")
        sync(partial_of(path))


def put_in_place(path: Path) -> None:
    """Finish what `prepare` began, if a kill did not let it be finished; never over a file."""
    if partial_of(path).exists() and not path.exists():
        partial_of(path).replace(path)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Nothing half-written stays, and what the system says becomes an error with the path."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial_of(path).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise NotWritten(
                f"cannot write {path}: {error.strerror}", "make room there, or write elsewhere"
            ) from error
        raise


def partial_of(path: Path) -> Path:
    """Where a file is written before it is renamed into its place."""
    return path.with_name(f".{path.name}.partial")


def hold(directory: Path) -> IO[str]:
    """Hold the directory for this process; the system lets go of it however the process ends.

    Raises:
        RunError: another process holds it, whose number the message gives, or it cannot be
            written to.
    """
    try:
        handle = (directory / LOCK).open("a+")
    except OSError as error:
        raise RunError(
            f"cannot write to {directory}: {error.strerror}",
            "give a directory that can be written to",
        ) from error
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks to hold
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        pid = handle.read(20).strip()
        handle.close()
        who = f"another process (pid {pid})" if pid.isdecimal() else "another process"
        stop = f" (kill {pid})" if pid.isdecimal() else ""
        raise RunError(f"{who} is using {directory}", f"wait for it, or stop it{stop}") from error
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    return handle
