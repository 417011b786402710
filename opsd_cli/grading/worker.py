"""The process in which answers are compared, and which its supervisor may kill at any moment.

`python -m opsd_cli.grading.worker` reads one JSON object a line from standard input and answers
each with one on standard output: {"gold", "answer", "seconds"} in, {"status"} out. Nothing but
these plain values crosses, since even printing a parsed expression can take minutes.

What the process does for its own safety:

* standard output is moved out of reach first, so that no stray print can be taken for a grade;
* a few pairs are graded before the first line, "ready", is written. What sympy imports late is then
  imported, and counted against no pair; and a worker that grades them wrong does not start, since
  the comparison survives every exception and would otherwise give plausible nonsense to the end;
* on Linux the address space is limited, so that a huge number ends in this process's death and not
  the machine's (macOS does not enforce the limit; there the deadline alone holds);
* it watches for the end of the process that started it;
* the kernel is asked for SIGALRM some seconds after the deadline, with its default action. The
  supervisor has killed the process by then, unless it is dead itself. One long operation on
  integers lets no other thread run, so the watch alone would leave an orphan that computes on.

math-verify's own timeouts are switched off. They raise from a signal handler, which does not run
while one long operation on integers does, and they would take SIGALRM away.
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

#: Bytes of address space on Linux, some 150 MB of which the libraries take.
MEMORY_LIMIT = 2 * 1024**3
#: What the kernel waits beyond the deadline before it ends a process that nobody supervises.
ORPHAN_SECONDS = 5
#: Pairs that reach the parser, simplify, solve and the sets, which import for half a second.
WARM_UP = (
    ("x^2+2x+3", "(x+1)^2+2", "correct"),
    ("1<x<2", "[1,2]", "wrong"),
    (r"\frac{1}{2} \text{ cm}", "0.5", "correct"),
)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes as private files; descriptors 0 and 1 lead nowhere afterwards."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return requests, replies


def _bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MEMORY_LIMIT)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _set_alarm(seconds: float) -> None:
    """Have the kernel end this process after so many seconds; 0 takes the order back."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(seconds))


def main() -> None:
    """Answer requests until standard input ends."""
    requests, replies = _take_pipes()

    def send(message: dict[str, str]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    # There is nothing to save: the end of the parent is the end at once.
    watch_parent(lambda: os._exit(1))
    logging.disable()  # math-verify warns that its timeouts are off
    # Imported here since an import can print, too.
    from opsd_cli.grading.compare import compare

    _bound_memory()
    for gold, answer, expected in WARM_UP:
        if (found := compare(gold, answer)) != expected:
            raise RuntimeError(f"{answer!r} for {gold!r} is graded {found}, not {expected}")
    send({"status": "ready"})
    # Up to here standard error tells why a start failed; from here it is only noise.
    os.dup2(1, 2)
    for line in requests:
        request = json.loads(line)
        _set_alarm(request["seconds"] + ORPHAN_SECONDS)
        try:
            status: str = compare(request["gold"], request["answer"])
        except MemoryError:
            # What is left of the heap is not to be trusted with the next pair.
            os._exit(1)
        except Exception:
            # Such as a RecursionError: nobody's fault that has a status, and nothing is broken.
            status = "crashed"
        _set_alarm(0)
        send({"status": status})


if __name__ == "__main__":
    main()
