"""Starting a Python process of our own, and ending it when the process that started it ends.

Two rules hold for every process that `opsd` starts from its own code:

* It imports this package and no other. `-P` keeps the working directory off its path, so that a
  stray `backends` or `json.py` there is not imported, and `PYTHONPATH` names the folder that this
  package was imported from, which the parent may owe to its working directory or to a changed
  `sys.path`.
* It does not outlive its parent, even one ended by `kill -9`, which runs no code on the way out.
  The parent holds the write end of a pipe and hands each child the read end. Whatever ends the
  parent closes the write end, and a thread in the child reads the end of the file. This needs
  nothing but pipes, so it works on Linux and macOS alike; Linux's PR_SET_PDEATHSIG would end the
  child with the *thread* that started it.

A program that is not ours cannot have such a thread: `opsd_cli.processes.guard` starts it and
watches for it.
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

#: Names the inherited file descriptor whose end of file is the end of the parent.
VARIABLE = "OPSD_PARENT_PIPE"
#: How long a process whose parent has ended may take to save and stop before it is ended.
GRACE_SECONDS = 60.0
#: The command line that starts `opsd` again; a command's words follow.
OPSD = (sys.executable, "-P", "-m", "opsd_cli")

_lock = threading.Lock()
_pipe: tuple[int, int] | None = None


def package_environment() -> dict[str, str]:
    """This process's environment, with this package to be found first."""
    environment = dict(os.environ)
    root = Path(__file__).resolve().parents[2]
    # Where the package is installed it is found anyway, and `site-packages` on PYTHONPATH would
    # come before the standard library.
    paths = [] if root.name in ("site-packages", "dist-packages") else [str(root)]
    paths += [path for path in [environment.get("PYTHONPATH")] if path]
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment.pop("PYTHONINSPECT", None)
    return environment


def tied(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `subprocess.Popen` or `run` that tie a process to this one.

    The process must call `watch_parent`, or be `opsd_cli.processes.guard`.

    Args:
        environment: what it is to get besides; a copy is made.
    """
    if os.name != "posix":  # inheriting a descriptor by number is a thing of POSIX
        return {"env": dict(environment)}
    read_end = _own_pipe()[0]
    return {"env": {**environment, VARIABLE: str(read_end)}, "pass_fds": (read_end,)}


def _own_pipe() -> tuple[int, int]:
    """The pipe that lasts as long as this process; one serves every child."""
    global _pipe
    with _lock:
        if _pipe is None:
            _pipe = os.pipe()  # neither end is inherited unless `pass_fds` says so
        return _pipe


def _forget_pipe() -> None:
    """After a fork: the copy would keep the parent's children from seeing its end."""
    global _lock, _pipe
    _lock = threading.Lock()
    if _pipe is not None:
        for end in _pipe:
            os.close(end)
        _pipe = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pipe)


def watch_parent(at_the_end: Callable[[], None] | None = None) -> None:
    """Have this process end with the one that started it, if that one asked for it by `tied`.

    Args:
        at_the_end: called, in a thread of its own, when the parent has ended. By default this
            process gets a SIGTERM, upon which training saves and stops, and is ended for good
            `GRACE_SECONDS` later.
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
    # To the main thread, so that a system call it waits in is interrupted.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os._exit(130)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt` as Ctrl-C does, so that what is open is closed.

    A handler that is there already is left, and so is a process that ignores SIGTERM.
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
