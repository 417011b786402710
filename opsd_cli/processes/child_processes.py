"""Child processes that run our code, and end when their parent ends.

Two rules hold for every Python process that opsd starts:

* It imports this package. `-P` keeps the working directory off its import path, so that a
  `backends` or `json.py` there is not imported, and `PYTHONPATH` names the folder that this package
  was imported from, which the parent may have found through its working directory or `sys.path`.
* It does not outlive its parent, not even after `kill -9`, which runs no cleanup. The parent keeps
  the write end of a pipe open and each child inherits the read end. When the parent ends, the
  operating system closes the write end, and a thread in the child reads end-of-file. Pipes work on
  Linux and macOS alike; Linux's PR_SET_PDEATHSIG would end the child with the parent's *thread*.

Other programs, such as a vLLM server, have no such thread: `opsd_cli.processes.guard` starts them
and watches the pipe for them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: Environment variable with the number of the inherited read end of the parent's pipe.
VARIABLE = "OPSD_PARENT_PIPE"
#: Time that a process whose parent has ended may take to save and stop before it exits.
GRACE_SECONDS = 60.0
#: Beginning of a command line that starts `opsd`; a command and its arguments follow.
OPSD = (sys.executable, "-P", "-m", "opsd_cli")

_lock = threading.Lock()
_pipe: tuple[int, int] | None = None


def package_environment() -> dict[str, str]:
    """This process's environment variables, with this package first on the import path."""
    environment = dict(os.environ)
    root = Path(__file__).resolve().parents[2]
    # An installed package is found anyway, and `site-packages` on PYTHONPATH would precede the
    # standard library.
    paths = [] if root.name in ("site-packages", "dist-packages") else [str(root)]
    paths += [path for path in [environment.get("PYTHONPATH")] if path]
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment.pop("PYTHONINSPECT", None)
    return environment


def tied(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `subprocess.Popen` or `run` that let a child end with this process.

    The child must call `watch_parent`, or be `opsd_cli.processes.guard`.

    Args:
        environment: the child's environment variables; not changed.
    """
    if os.name != "posix":  # only POSIX inherits descriptors by number
        return {"env": dict(environment)}
    read_end = _own_pipe()[0]
    return {"env": {**environment, VARIABLE: str(read_end)}, "pass_fds": (read_end,)}


def _own_pipe() -> tuple[int, int]:
    """This process's pipe, shared by all its children; closed when the process ends."""
    global _pipe
    with _lock:
        if _pipe is None:
            _pipe = os.pipe()  # inherited only through `pass_fds`
        return _pipe


def _forget_pipe() -> None:
    """Close a forked copy of the pipe, which would keep it open after the parent's end."""
    global _lock, _pipe
    _lock = threading.Lock()
    if _pipe is not None:
        for end in _pipe:
            os.close(end)
        _pipe = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pipe)


def watch_parent(at_the_end: Callable[[], None] | None = None) -> None:
    """End this process with its parent, if the parent started it with `tied`.

    Args:
        at_the_end: called in a separate thread when the parent has ended. By default this process
            receives SIGTERM, on which training saves and stops, and exits `GRACE_SECONDS` later at
            the latest.
    """
    number = os.environ.pop(VARIABLE, "")
    if not number.isdecimal():
        return
    descriptor = int(number)
    try:
        os.set_inheritable(descriptor, False)
    except OSError:  # inherited through a program that closed it
        return

    def watch() -> None:
        with suppress(OSError):
            while os.read(descriptor, 1):
                pass
            (at_the_end or _stop_then_end)()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _stop_then_end() -> None:
    # Sent to the main thread, so that a system call it waits in is interrupted.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os._exit(130)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt` as Ctrl-C does, so that `finally` blocks run.

    Without effect if SIGTERM is ignored or has a handler already.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    mine = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if mine:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
