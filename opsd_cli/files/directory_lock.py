"""An advisory lock on a directory, so that two processes never write to one run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from opsd_cli.errors import RunError

LOCK = ".lock"


def lock_directory(directory: Path) -> IO[str]:
    """Lock a directory for this process; the operating system releases it when the process ends.

    Returns:
        The open lock file, which holds this process's id; closing it releases the lock.

    Raises:
        RunError: another process holds the lock (the message gives its process id), or the
            directory cannot be written to.
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
    except ImportError:  # Windows has no advisory locks of this kind
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
    with contextlib.suppress(OSError):  # on a full disk the lock is held without the process id
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    return handle


def lock_holder(directory: Path) -> str | None:
    """The process that holds a directory's lock, in words; None if none does.

    Nothing is written: the directory may be read-only.
    """
    try:
        import fcntl

        with (directory / LOCK).open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                pid = handle.read(20).strip()
                return f"process {pid}" if pid.isdecimal() else "another process"
    except (ImportError, OSError):
        return None
    return None
