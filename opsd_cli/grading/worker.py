"""The worker process in which answers are compared; the supervisor may kill it at any time.

`python -m opsd_cli.grading.worker` reads one JSON object a line from standard input and writes one
line for each to standard output: {"gold", "answer", "seconds"} in, {"status"} out. Only these plain
values are exchanged, since even printing a parsed expression can take minutes.

Safety measures of the process:

* standard output is redirected first, so that no stray print is taken for a status;
* a few pairs are graded before the first line, "ready", is written. Modules that sympy imports
  lazily are then loaded outside any deadline; and a worker that grades these pairs wrong does not
  start, since the comparison catches all exceptions and would silently give wrong statuses;
* on Linux the address space is limited, so that a huge number ends this process and does not
  exhaust the machine's memory (macOS does not enforce the limit; there only the deadline applies);
* it watches for the end of the process that started it;
* the kernel sends SIGALRM, with its default action, some seconds after the deadline. By then
  the supervisor has killed the process, unless the supervisor itself has died. One long operation
  on integers blocks all other threads, so the watch alone would leave an orphan running.

math-verify's own timeouts are disabled. They raise from a signal handler, which does not run during
one long operation on integers, and they would replace SIGALRM.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from typing import BinaryIO

from opsd_cli.processes.child_processes import watch_parent

#: Limit of the address space in bytes, on Linux; the libraries take about 150 MB of it.
MEMORY_LIMIT = 2 * 1024**3
#: Seconds after the deadline at which the kernel ends a process without a supervisor.
ORPHAN_SECONDS = 5
#: Pairs whose comparison imports the parser, simplify, solve and the sets, in half a second.
WARM_UP = (
    ("x^2+2x+3", "(x+1)^2+2", "correct"),
    ("1<x<2", "[1,2]", "wrong"),
    (r"\frac{1}{2} \text{ cm}", "0.5", "correct"),
)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes as private files; descriptors 0 and 1 are /dev/null afterwards."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return requests, replies


def limit_memory(limit: int = MEMORY_LIMIT) -> None:
    """Limit the address space of this process, in bytes; only Linux enforces it."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(hard, limit)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def set_alarm(seconds: float) -> None:
    """Have the kernel end this process after `seconds`; 0 cancels the alarm."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(seconds))


def main() -> None:
    """Answer requests until standard input ends."""
    requests, replies = take_pipes()

    def send(message: dict[str, str]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    # There is nothing to save, so the process ends at once with its parent.
    watch_parent(lambda: os._exit(1))
    logging.disable()  # math-verify warns that its timeouts are off
    # Imported after the redirection, since an import can print.
    from opsd_cli.grading.compare import compare

    limit_memory()
    for gold, answer, expected in WARM_UP:
        if (found := compare(gold, answer)) != expected:
            raise RuntimeError(f"{answer!r} for {gold!r} is graded {found}, not {expected}")
    send({"status": "ready"})
    # Standard error gives the reason of a failed start; from here on it is discarded.
    os.dup2(1, 2)
    for line in requests:
        request = json.loads(line)
        set_alarm(request["seconds"] + ORPHAN_SECONDS)
        try:
            status: str = compare(request["gold"], request["answer"])
        except MemoryError:
            # The state of the process is unknown after a failed allocation.
            os._exit(1)
        except Exception:
            # Such as a RecursionError; the process can continue.
            status = "crashed"
        set_alarm(0)
        send({"status": status})


if __name__ == "__main__":
    main()
