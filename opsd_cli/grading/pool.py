"""The supervisor of the worker processes: distributes requests, and kills workers at the deadline.

Why not `multiprocessing`: forking after torch or MLX started a thread can deadlock; forkserver and
spawn import the main module again, so a script without an `if __name__ == "__main__"` guard would
start itself recursively. A worker is therefore a plain `python -m opsd_cli.grading.worker` that
reads and writes JSON lines; other graders have `opsd_cli.grading.judge_worker`. From its parent it
only needs the path of this package, which `child_processes` sets.

Each worker has a thread in this process for the blocking reads and writes; everything else runs in
the thread that called `replies`. The deadline of a request starts when it is sent to a worker that
is ready, so neither start-up nor queueing counts. The process is killed at the deadline, because
nothing within it can interrupt one long operation on integers; what it has started is killed with
it, since each worker has a process group of its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from opsd_cli.errors import ConfigError, OpsdError
from opsd_cli.processes.child_processes import package_environment, tied

#: Start-up takes one or two seconds on an idle machine; the limit is for a very busy one.
START_UP_SECONDS = 300.0
WORKER = (sys.executable, "-P", "-m", "opsd_cli.grading.worker")
#: Pairs after which a worker is replaced, so that the caches of sympy stay bounded.
PAIRS_PER_WORKER = 2000
MATHEMATICS_HINT = "run `python -m opsd_cli.grading.worker` to see why; it needs math-verify 0.9"
#: Starting one more worker for fewer pairs than this costs more time than it saves.
MIN_PAIRS_PER_WORKER = 8


def _environment() -> dict[str, str]:
    """The parent's environment, with the path of this package and a fixed hash seed.

    The order of terms in sympy depends on hashes: without a seed, grades could differ between runs.
    """
    return package_environment() | {"PYTHONHASHSEED": "0"}


class _Worker:
    """One process and its thread.

    The thread puts (worker, status) on `events`: "ready" or "refused", then a status for each
    request, and None when the process has ended.

    Attributes:
        reply: the newest message of the process, which has the status.
    """

    def __init__(
        self, events: queue.SimpleQueue[tuple[_Worker, str | None]], command: Sequence[str]
    ) -> None:
        self.ready = False
        self.task: int | None = None
        self.due = time.monotonic() + START_UP_SECONDS
        self.pairs = 0
        self.reply: dict[str, Any] = {}
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
                self.reply = json.loads(reply)
                self._events.put((self, self.reply["status"]))
                request = self._requests.get()
                if request is None:
                    return
                self.process.stdin.write(request)
                self.process.stdin.flush()
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # the pipe broke, or its end was cut off in mid-line
            pass
        finally:
            self._events.put((self, None))

    def ask(self, task: int, request: Mapping[str, Any], seconds: float) -> None:
        """Send a request to the process; its status will arrive on the queue of events."""
        self.task, self.due = task, time.monotonic() + seconds
        self.pairs += 1
        self._requests.put(json.dumps({**request, "seconds": seconds}).encode() + b"\n")

    def alive(self) -> bool:
        return self.process.poll() is None

    def last_error(self) -> str:
        """The last line that the process wrote to standard error before it was ready."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")

    def dismiss(self) -> None:
        """Kill the process with all that it has started, and close its pipes and files."""
        # Its process group has its number, and outlives it while a child is left.
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
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
        hint: what the user can do where it does not start.
    """

    def __init__(
        self, workers: int, command: Sequence[str] = WORKER, hint: str = MATHEMATICS_HINT
    ) -> None:
        self._hint = hint
        self._size = workers
        self._command = command
        self._events: queue.SimpleQueue[tuple[_Worker, str | None]] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        weakref.finalize(self, _dismiss_all, self._workers, self._owner)

    def statuses(self, pairs: Sequence[tuple[str, str]], deadline_seconds: float) -> list[str]:
        """The status of each (gold answer, answer), in order; raises as `replies`."""
        requests = [{"gold": gold, "answer": answer} for gold, answer in pairs]
        return [reply["status"] for reply in self.replies(requests, deadline_seconds)]

    def start(self) -> None:
        """Start a worker if there is none, and wait until it is ready; raises as `replies`."""
        with self._lock:
            try:
                if not self._workers:
                    self._add_worker()
                while not any(worker.ready for worker in self._workers):
                    self._receive()
            except BaseException:
                _dismiss_all(self._workers, self._owner)
                raise

    def replies(
        self, requests: Sequence[Mapping[str, Any]], deadline_seconds: float
    ) -> list[dict[str, Any]]:
        """The reply to each request, in order.

        Each has a "status". It is all of the reply where a request took too long ("timeout"), or
        its process ended without one ("crashed").

        Raises:
            ConfigError: a worker refuses what it is to run.
            OpsdError: a worker cannot be started.
        """
        with self._lock:
            if self._owner != os.getpid():  # after a fork the processes belong to the parent
                self._owner, self._workers, self._events = os.getpid(), [], queue.SimpleQueue()
                weakref.finalize(self, _dismiss_all, self._workers, self._owner)
            try:
                return self._work(requests, deadline_seconds)
            except BaseException:
                _dismiss_all(self._workers, self._owner)  # some still work on requests of this call
                raise

    def close(self) -> None:
        """End all processes; the next call would start new ones."""
        with self._lock:
            _dismiss_all(self._workers, self._owner)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.dismiss()

    def _work(self, requests: Sequence[Mapping[str, Any]], seconds: float) -> list[dict[str, Any]]:
        done: dict[int, dict[str, Any]] = {}
        waiting = deque(range(len(requests)))
        while len(done) < len(requests):
            self._hand_out(requests, waiting, seconds)
            task, reply = self._receive()
            if task is not None:
                done[task] = reply
        return [done[i] for i in range(len(requests))]

    def _receive(self) -> tuple[int | None, dict[str, Any]]:
        """The next message: the task it answers, None for none, and the reply.

        A worker that ended, missed its deadline or says that its reply is its last is dismissed.
        """
        worker, message = self._next_event()
        if worker not in self._workers:
            return None, {}  # a message of a worker already dismissed
        task, worker.task, worker.due = worker.task, None, math.inf
        if message == "refused" and not worker.ready:
            raise ConfigError(worker.reply["message"], worker.reply["hint"])
        if message == "timeout" or message is None:
            if not worker.ready:
                raise _cannot_start(worker.last_error(), self._hint)
            self._dismiss(worker)
            return task, {"status": message or "crashed"}
        worker.ready = True
        if worker.reply.get("last"):
            self._dismiss(worker)
        return task, {"status": message} | worker.reply

    def _hand_out(
        self, requests: Sequence[Mapping[str, Any]], waiting: deque[int], seconds: float
    ) -> None:
        """Start as many workers as the waiting requests need; send one to each idle worker."""
        for worker in list(self._workers):
            idle = worker.ready and worker.task is None
            if idle and waiting and (worker.pairs >= PAIRS_PER_WORKER or not worker.alive()):
                self._dismiss(worker)
        busy = sum(worker.task is not None for worker in self._workers)
        wanted = min(self._size, busy + -(-len(waiting) // MIN_PAIRS_PER_WORKER))
        while len(self._workers) < wanted:
            self._add_worker()
        for worker in self._workers:
            if waiting and worker.ready and worker.task is None:
                task = waiting.popleft()
                worker.ask(task, requests[task], seconds)

    def _add_worker(self) -> None:
        try:
            self._workers.append(_Worker(self._events, self._command))
        except OSError as error:
            raise _cannot_start(str(error), self._hint) from error

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


def _cannot_start(reason: str, hint: str) -> OpsdError:
    return OpsdError(f"a grading worker could not be started: {reason}", hint)
