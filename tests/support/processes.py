"""Looking at processes that a test started, directly or not, and waiting for their end.

Waiting has a limit only so that a failure is one: a test that passes never comes near it.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil

PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.02


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended; a zombie has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    """Whether a process ends, however long that takes on a busy machine."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def working_in(folder: Path) -> list[psutil.Process]:
    """The processes whose working directory a folder is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def left_in(folder: Path) -> list[str]:
    """Command lines of processes that stay at work in a folder; they are ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := working_in(folder):
        if time.monotonic() > deadline:
            lines = [" ".join(process.cmdline()) for process in left]
            for process in left:
                process.kill()
            return lines
        time.sleep(POLL_SECONDS)
    return []
