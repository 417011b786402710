"""Runs another program, and kills it and its children when the process that asked has ended.

    python -I opsd_cli/processes/guard.py [--report] COMMAND...

with the environment of `opsd_cli.processes.child_processes.tied`. It is run by its path and imports
only the standard library, so that the program's environment is not changed. It leads a process
group of its own (`start_new_session=True`) that contains the program: a signal to the group reaches
both. When the program has ended, the rest of the group is killed, and this process with it; with
`--report` the last line on standard error is the program's exit code (`REPORT`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

#: Time that the program may take to end after SIGTERM.
GRACE_SECONDS = 10.0
REPORT = "opsd: exit code "


def main() -> None:
    # Signals to the group are for the program; this process ends after it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    descriptor = int(os.environ.pop("OPSD_PARENT_PIPE"))
    os.set_inheritable(descriptor, False)
    command = sys.argv[1:]
    reports = command[0] == "--report"
    try:
        program = subprocess.Popen(command[reports:])
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    threading.Thread(target=_watch, args=(descriptor, program), daemon=True).start()
    code = program.wait()
    if reports:
        print(f"{REPORT}{code}", file=sys.stderr, flush=True)
    # The program's children, which can hold a GPU's memory, and this process.
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
