"""The supervisor of the worker processes: distributes pairs, and kills workers at the deadline.

Why not `multiprocessing`: forking after torch or MLX started a thread can deadlock; forkserver and
spawn import the main module again, so a script without an `if __name__ == "__main__"` guard would
start itself recursively. A worker is therefore a plain `python -m opsd_cli.grading.worker` that
reads and writes JSON lines. From its parent it only needs the path of this package, which
`child_processes` sets.

Each worker has a thread in this process for the blocking reads and writes; everything else runs in
the thread that called `statuses`. The deadline of a pair starts when the pair is sent to a worker
that is ready, so neither start-up nor queueing counts. The process is killed at the deadline,
because nothing within it can interrupt one long operation on integers.
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

#: Start-up takes one or two seconds on an idle machine; the limit is for a very busy one.
START_UP_SECONDS = 300.0
WORKER = (sys.executable, "-P", "-m", "opsd_cli.grading.worker")
#: Pairs after which a worker is replaced, so that the caches of sympy stay bounded.
PAIRS_PER_WORKER = 2000
#: Starting one more worker for fewer pairs than this costs more time than it saves.
MIN_PAIRS_PER_WORKER = 8


def _environment() -> dict[str, str]:
    """The parent's environment, with the path of this package and a fixed hash seed.

    The order of terms in sympy depends on hashes: without a seed, grades could differ between runs.
    """
    return package_environment() | {"PYTHONHASHSEED": "0"}


class _Worker:
    """One process and its thread.

    The thread puts (worker, message) on `events`: "ready", then a status for each request, and None
    when the process has ended.
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
                # Ctrl-C goes to the parent only, which may finish the current work.
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
        """Send a pair to the process; its status will arrive on the queue of events."""
        request = {"gold": gold, "answer": answer, "seconds": seconds}
        self.task, self.due = task, time.monotonic() + seconds
        self.pairs += 1
        self._requests.put(json.dumps(request).encode() + b"\n")

    def alive(self) -> bool:
        return self.process.poll() is None

    def last_error(self) -> str:
        """The last line that the process wrote to standard error before it was ready."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")

    def dismiss(self) -> None:
        """Kill the process and close its pipes and files."""
        self.process.kill()
        self.process.wait()
        self._requests.put(None)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(OSError):  # an unread request is still in its buffer
                pipe.close()
        self._errors.close()


class Pool:
    """Up to `workers` processes, started when first needed and reused by later calls.

    They end with `close`, with the garbage collection of the pool, or with the program.

    Args:
        workers: maximum number of processes.
        command: the command that starts one.
    """

    def __init__(self, workers: int, command: Sequence[str] = WORKER) -> None:
        self._size = workers
        self._command = command
        self._events: queue.SimpleQueue[tuple[_Worker, str | None]] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        weakref.finalize(self, _dismiss_all, self._workers, self._owner)

    def statuses(self, pairs: Sequence[tuple[str, str]], deadline_seconds: float) -> list[str]:
        """The status of each (gold answer, answer), in order.

        Raises:
            OpsdError: a worker cannot be started.
        """
        with self._lock:
            if self._owner != os.getpid():  # after a fork the processes belong to the parent
                self._owner, self._workers, self._events = os.getpid(), [], queue.SimpleQueue()
                weakref.finalize(self, _dismiss_all, self._workers, self._owner)
            try:
                return self._work(pairs, deadline_seconds)
            except BaseException:
                _dismiss_all(self._workers, self._owner)  # some still work on pairs of this call
                raise

    def close(self) -> None:
        """End all processes; the next call would start new ones."""
        with self._lock:
            _dismiss_all(self._workers, self._owner)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.dismiss()

    def _work(self, pairs: Sequence[tuple[str, str]], seconds: float) -> list[str]:
        done: dict[int, str] = {}
        waiting = deque(range(len(pairs)))
        while len(done) < len(pairs):
            self._hand_out(pairs, waiting, seconds)
            worker, message = self._next_event()
            if worker not in self._workers:
                continue  # a message of a worker already dismissed
            task, worker.task, worker.due = worker.task, None, math.inf
            if message == "timeout" or message is None:
                if not worker.ready:
                    raise _cannot_start(worker.last_error())
                self._dismiss(worker)
            worker.ready = True
            if task is not None:
                done[task] = message or "crashed"
        return [done[i] for i in range(len(pairs))]

    def _hand_out(
        self, pairs: Sequence[tuple[str, str]], waiting: deque[int], seconds: float
    ) -> None:
        """Start as many workers as the waiting pairs need; send a pair to each idle worker."""
        for worker in list(self._workers):
            idle = worker.ready and worker.task is None
            if idle and waiting and (worker.pairs >= PAIRS_PER_WORKER or not worker.alive()):
                self._dismiss(worker)
        busy = sum(worker.task is not None for worker in self._workers)
        wanted = min(self._size, busy + -(-len(waiting) // MIN_PAIRS_PER_WORKER))
        while len(self._workers) < wanted:
            try:
                self._workers.append(_Worker(self._events, self._command))
            except OSError as error:
                raise _cannot_start(str(error)) from error
        for worker in self._workers:
            if waiting and worker.ready and worker.task is None:
                task = waiting.popleft()
                worker.ask(task, *pairs[task], seconds)

    def _next_event(self) -> tuple[_Worker, str | None]:
        """The next message of a worker, or (worker, "timeout") for one past its deadline."""
        late = min(self._workers, key=lambda worker: worker.due)
        try:
            if late.due == math.inf:
                return self._events.get()
            return self._events.get(timeout=max(0.0, late.due - time.monotonic()))
        except queue.Empty:
            return late, "timeout"


def _dismiss_all(workers: list[_Worker], owner: int) -> None:
    """End processes; a function, so that it can run after the pool was garbage-collected."""
    if owner == os.getpid():
        while workers:
            workers.pop().dismiss()


def _cannot_start(reason: str) -> OpsdError:
    return OpsdError(
        f"a grading worker could not be started: {reason}",
        "run `python -m opsd_cli.grading.worker` to see why; it needs math-verify 0.9",
    )
