"""Processes that a test started, directly or not: are they running, and do they end?

Waiting has a limit only so that a failure ends; a passing test never comes near it.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil

PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.02


def alive(pid: int) -> bool:
    """True if a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(pid: int) -> bool:
    """True if a process ends within `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def working_in(folder: Path) -> list[psutil.Process]:
    """Processes whose working directory is this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def left_in(folder: Path) -> list[str]:
    """Command lines of processes that do not leave a folder in time; they are killed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := working_in(folder):
        if time.monotonic() > deadline:
            lines = [" ".join(process.cmdline()) for process in left]
            for process in left:
                process.kill()
            return lines
        time.sleep(POLL_SECONDS)
    return []
