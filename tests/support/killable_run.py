r"""Stands in for `opsd`: a fake model, stopped clocks, and a kill at a chosen event.

    OPSD_KILL='{"role": "train:run", "at": 17, "signal": 9}' \
        python -m tests.support.killable_run train --out run

An event is a rollout, or a call that changes files below the working directory: a file opened for
writing, a write, a sync, a rename, a removal, a folder made. They come in the same order every
time, so the n-th event does not depend on the speed of the machine. With `torn`, a write at which
the process is killed keeps only that share of its bytes.

A process's role is its command and the name of its output directory. `OPSD_EVENTS` names a folder
in which every process writes how many events it had, when it exits, and a marker before it kills.
Clocks stand still, so that files hold no times and can be compared byte for byte.
"""

from __future__ import annotations

import atexit
import builtins
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import backends
from backends.interface import Memory, Rollout
from opsd_cli.cli.app import main
from opsd_cli.config.schema import Config
from opsd_cli.processes import child_processes
from tests.support.fakes import FakeBackend, FakePolicy

KILL, EVENTS, REAL = "OPSD_KILL", "OPSD_EVENTS", "OPSD_REAL"


def role_of(words: list[str]) -> str:
    """Role of a command line, such as "train:opsd-s0"."""
    for flag in ("--out", "--adapter"):
        if flag in words:
            return f"{words[0]}:{Path(words[words.index(flag) + 1]).name}"
    return words[0]


class Events:
    """Counts events, and kills at the chosen one."""

    def __init__(self) -> None:
        self.role = role_of(sys.argv[1:])
        self.count = 0
        order = json.loads(os.environ.get(KILL, "{}"))
        mine = order.get("role") == self.role
        self.at: int | None = order["at"] if mine else None
        self.number: int = order.get("signal", signal.SIGKILL)
        self.torn: float | None = order.get("torn")
        self.victim = os.getppid() if order.get("victim") == "parent" else os.getpid()
        self.home = os.getcwd() + os.sep

    def happen(self) -> bool:
        """Count an event; True if it is the chosen one."""
        self.count += 1
        return self.count == self.at

    def event(self) -> None:
        if self.happen():
            self.kill()

    def kill(self) -> None:
        self.leave("fired")
        os.kill(self.victim, self.number)

    def inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.home)

    def leave(self, name: str = "") -> None:
        """Write the count to a file of the role's name with this suffix."""
        folder = os.environ.get(EVENTS)
        if folder:
            with real_open(os.path.join(folder, self.role + name), "w") as out:
                out.write(str(self.count))


class Watched:
    """A file open for writing; each write is an event."""

    def __init__(self, file: Any, events: Events) -> None:
        self._file, self._events = file, events

    def write(self, data: Any) -> int:
        if self._events.happen():
            if self._events.torn is not None and self._events.number == signal.SIGKILL:
                whole = data.encode() if isinstance(data, str) else bytes(data)
                self._file.flush()
                os.write(self._file.fileno(), whole[: int(len(whole) * self._events.torn)])
            self._events.kill()
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


real_open = io.open


def install(events: Events) -> None:
    """Count every change of a file as an event."""

    def opened(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+") or not events.inside(file):
            return real_open(file, mode, *more, **named)
        events.event()
        return Watched(real_open(file, mode, *more, **named), events)

    def counted(real: Callable[..., Any], any_path: bool = False) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **named: Any) -> Any:
            if any_path or events.inside(path):
                events.event()
            return real(path, *more, **named)

        return call

    io.open = builtins.open = opened
    os.fsync = counted(os.fsync, any_path=True)
    for name in ("rename", "replace", "unlink", "remove", "mkdir", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def count_rollouts(policy: Any, events: Events) -> None:
    """Count every rollout of a policy as an event."""
    real = policy.generate

    def generate(*arguments: Any, **named: Any) -> Iterator[Rollout]:
        for rollout in real(*arguments, **named):
            events.event()
            yield rollout

    policy.generate = generate


class KilledBackend(FakeBackend):
    """The fake backend, or if `OPSD_REAL` is set the CPU's own."""

    events: Events

    def load(self, config: Config, trainable: bool) -> Any:
        policy: Any = FakePolicy(skill=0.2, gain=0.1)
        if os.environ.get(REAL):
            from backends.pytorch.backend import CpuBackend

            policy = CpuBackend().load(config, trainable)
            policy.memory = lambda: Memory(1, 2)  # a resumed process would report less
        count_rollouts(policy, self.events)
        return policy


if __name__ == "__main__":
    backends.BACKENDS["cpu"] = "tests.support.killable_run:KilledBackend"
    child_processes.OPSD = (*child_processes.OPSD[:-1], "tests.support.killable_run")
    time.perf_counter = time.process_time = lambda: 0.0
    happening = Events()
    atexit.register(happening.leave)
    import tests.support.killable_run as importable  # the module that the backend is loaded from

    importable.KilledBackend.events = happening
    install(happening)
    main()
