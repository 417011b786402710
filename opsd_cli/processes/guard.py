"""Runs a program that is not ours, and ends it and all it started when whoever asked has ended.

    python -I opsd_cli/processes/guard.py COMMAND...

with the descriptor of `opsd_cli.processes.child_processes.tied` in the environment. It is run by
its path and imports the standard library alone, so that the program's environment stays the
program's own. It leads a process group of its own (`start_new_session=True`) that the program is in
too: a signal to the group reaches both. When the program has ended, so has the group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

#: How long the program may take to end by itself.
GRACE_SECONDS = 10.0


def main() -> None:
    # A request to stop is for the program; this process ends when that has.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    descriptor = int(os.environ.pop("OPSD_PARENT_PIPE"))
    os.set_inheritable(descriptor, False)
    try:
        program = subprocess.Popen(sys.argv[1:])
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    threading.Thread(target=_watch, args=(descriptor, program), daemon=True).start()
    program.wait()
    # The processes that it started, which may hold a GPU's memory, and this one.
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _watch(descriptor: int, program: subprocess.Popen[bytes]) -> None:
    while os.read(descriptor, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        program.wait(GRACE_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
