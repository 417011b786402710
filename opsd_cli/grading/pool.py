"""The supervisor: hands pairs to worker processes, and kills those that miss a deadline.

Why processes of our own and not `multiprocessing`: forking after torch or MLX started a thread can
deadlock; forkserver and spawn import the main module again, so a script without an
`if __name__ == "__main__"` guard would start itself over and over. A worker is therefore a plain
`python -m opsd_cli.grading.worker` that speaks JSON lines, and needs nothing of its parent but a
way to find this package, which `child_processes` gives it.

Each worker has a thread here that does the blocking reads and writes; everything else happens in
the thread that called `statuses`, which may be any. A pair's deadline starts when a worker that has
said "ready" is handed the pair, so neither start-up nor waiting in line counts. Killing is the only
guarantee: nothing within a process can interrupt one long operation on integers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence

from opsd_cli.errors import OpsdError
from opsd_cli.processes.child_processes import package_environment, tied

#: Starting takes one or two seconds on an idle machine; this is for one that is very busy.
START_UP_SECONDS = 300.0
WORKER = (sys.executable, "-P", "-m", "opsd_cli.grading.worker")
#: Pairs after which a worker is replaced, so that what sympy keeps in its caches cannot pile up.
PAIRS_PER_WORKER = 2000
#: A worker for fewer pairs than this costs more in starting than it saves.
FEWEST_PAIRS_EACH = 8


def _environment() -> dict[str, str]:
    """The parent's environment, with this package to be found and the hash seed fixed.

    sympy's order of terms follows hashes, so without a seed a grade could differ between runs.
    """
    return package_environment() | {"PYTHONHASHSEED": "0"}


class _Worker:
    """One process and the thread that talks to it.

    The thread puts (worker, message) on `events`: "ready", then a status for each request, and None
    when the process is gone.
    """

    def __init__(
        self, events: queue.SimpleQueue[tuple[_Worker, str | None]], command: Sequence[str]
    ) -> None:
        self.ready = False
        self.task: int | None = None
        self.due = time.monotonic() + START_UP_SECONDS
        self.pairs = 0
        self._events = events
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Ctrl-C is for the parent, which may want to finish what it is doing.
                start_new_session=True,
                **tied(_environment()),
            )
        except OSError:
            self._errors.close()
            raise
        threading.Thread(target=self._talk, name="grading", daemon=True).start()

    def _talk(self) -> None:
        assert self.process.stdin and self.process.stdout
        try:
            while reply := self.process.stdout.readline():
                self._events.put((self, json.loads(reply)["status"]))
                request = self._requests.get()
                if request is None:
                    return
                self.process.stdin.write(request)
                self.process.stdin.flush()
        except (OSError, ValueError):  # the pipe broke, or its end was cut off in mid-line
            pass
        finally:
            self._events.put((self, None))

    def ask(self, task: int, gold: str, answer: str, seconds: float) -> None:
        """Hand over a pair; its status will be on the queue of events."""
        request = {"gold": gold, "answer": answer, "seconds": seconds}
        self.task, self.due = task, time.monotonic() + seconds
        self.pairs += 1
        self._requests.put(json.dumps(request).encode() + b"\n")

    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        """The last line the process wrote to standard error before it was ready."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")

    def dismiss(self) -> None:
        """Kill the process and release what it held."""
        self.process.kill()
        self.process.wait()
        self._requests.put(None)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(OSError):  # a request never read is still in its buffer
                pipe.close()
        self._errors.close()


class Pool:
    """Up to `workers` processes, started when first needed and kept for the next call.

    They end with `close`, with the pool or with the program, whichever comes first, and with a
    program that is killed.

    Args:
        workers: most processes at a time.
        command: what starts one.
    """

    def __init__(self, workers: int, command: Sequence[str] = WORKER) -> None:
        self._size = workers
        self._command = command
        self._events: queue.SimpleQueue[tuple[_Worker, str | None]] = queue.SimpleQueue()
        self._crew: list[_Worker] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        weakref.finalize(self, _dismiss_all, self._crew, self._owner)

    def statuses(self, pairs: Sequence[tuple[str, str]], deadline_seconds: float) -> list[str]:
        """The status of each (gold answer, answer), in order.

        Raises:
            OpsdError: a worker cannot be started.
        """
        with self._lock:
            if self._owner != os.getpid():  # after a fork these processes belong to the parent
                self._owner, self._crew, self._events = os.getpid(), [], queue.SimpleQueue()
                weakref.finalize(self, _dismiss_all, self._crew, self._owner)
            try:
                return self._work(pairs, deadline_seconds)
            except BaseException:
                _dismiss_all(self._crew, self._owner)  # some work on pairs nobody waits for now
                raise

    def close(self) -> None:
        """End all processes; the next call would start new ones."""
        with self._lock:
            _dismiss_all(self._crew, self._owner)

    def _dismiss(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.dismiss()

    def _work(self, pairs: Sequence[tuple[str, str]], seconds: float) -> list[str]:
        done: dict[int, str] = {}
        waiting = deque(range(len(pairs)))
        while len(done) < len(pairs):
            self._hand_out(pairs, waiting, seconds)
            worker, message = self._next_event()
            if worker not in self._crew:
                continue  # the last words of one already dismissed
            task, worker.task, worker.due = worker.task, None, math.inf
            if message == "timeout" or message is None:
                if not worker.ready:
                    raise _cannot_start(worker.last_words())
                self._dismiss(worker)
            worker.ready = True
            if task is not None:
                done[task] = message or "crashed"
        return [done[i] for i in range(len(pairs))]

    def _hand_out(
        self, pairs: Sequence[tuple[str, str]], waiting: deque[int], seconds: float
    ) -> None:
        """Keep as many workers as the waiting pairs are worth, and give a pair to each idle one."""
        for worker in list(self._crew):
            idle = worker.ready and worker.task is None
            if idle and waiting and (worker.pairs >= PAIRS_PER_WORKER or not worker.alive()):
                self._dismiss(worker)
        busy = sum(worker.task is not None for worker in self._crew)
        wanted = min(self._size, busy + -(-len(waiting) // FEWEST_PAIRS_EACH))
        while len(self._crew) < wanted:
            try:
                self._crew.append(_Worker(self._events, self._command))
            except OSError as error:
                raise _cannot_start(str(error)) from error
        for worker in self._crew:
            if waiting and worker.ready and worker.task is None:
                task = waiting.popleft()
                worker.ask(task, *pairs[task], seconds)

    def _next_event(self) -> tuple[_Worker, str | None]:
        """What a worker says next, or (worker, "timeout") for one past its due time."""
        late = min(self._crew, key=lambda worker: worker.due)
        try:
            if late.due == math.inf:
                return self._events.get()
            return self._events.get(timeout=max(0.0, late.due - time.monotonic()))
        except queue.Empty:
            return late, "timeout"


def _dismiss_all(crew: list[_Worker], owner: int) -> None:
    """Outside the class, so that it can run when the pool itself is gone."""
    if owner == os.getpid():
        while crew:
            crew.pop().dismiss()


def _cannot_start(words: str) -> OpsdError:
    return OpsdError(
        f"a grading worker could not be started: {words}",
        "run `python -m opsd_cli.grading.worker` to see why; it needs math-verify 0.9",
    )
