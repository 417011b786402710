"""Processes that a launcher starts side by side: torchrun, `srun`, an MPI launcher.

All run the same command. Rank 0 runs it; the others become its workers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress

from opsd_cli.errors import OpsdError

#: Variable of processes that read `STOP` from their standard input: the byte that Ctrl-C is in a
#: terminal, where ssh gives them one.
STOP_BY_INPUT = "OPSD_STOP_BY_INPUT"
STOP = b"\x03"


def work_if_asked() -> bool:
    """Work for rank 0 until it ends, if this process has another rank; False if it has not.

    Raises:
        UsageError: a launcher's variables make no sense.
        BackendMissing: rank 0 cannot be reached.
    """
    # Imported here: the command line first refuses another project's `backends`.
    from backends.shared.placement import recognised

    if recognised().rank == 0:
        stop_by_input()
        return False
    from backends.parallel.ranks import join_as_worker
    from backends.parallel.worker import serve

    channel = join_as_worker()
    if channel is not None:
        serve(channel)
    return True


def stop_by_input() -> None:
    """Let this process be told by its standard input to stop, if `--hosts` has started it."""
    if os.environ.pop(STOP_BY_INPUT, "") != "1" or sys.stdin.isatty():
        return

    def read() -> None:
        with suppress(OSError):
            while told := os.read(sys.stdin.fileno(), 1):
                if told == STOP:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=read, name="standard input", daemon=True).start()


def dismiss_unmet() -> None:
    """Let the other processes go, where this one is rank 0 and ends without having met them."""
    from opsd_cli.processes import import_check

    with suppress(OpsdError):  # a command that ended with this error has reported it
        import_check.require_own_backends()
        from backends.shared.placement import recognised

        if recognised().size > 1:
            from backends.parallel import ranks

            ranks.dismiss_unmet()
