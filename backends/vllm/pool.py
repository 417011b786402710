"""The vLLM servers of a run: started, given each adapter, proven, restarted and given up together.

Every server has a whole copy of the base model. A new version of the adapter is written once and
loaded into every server, and all of them are proven with a canary (`backends.vllm.canary`) before
one samples. A server that this run started is restarted when it dies; a server at an address that
is lost is given up with a warning while others go on, as soon as its connection breaks, and asked
again before the next rollouts. The last one is asked again for a while first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from backends.interface import Policy
from backends.vllm.adapters import AdapterFiles
from backends.vllm.canary import Canary
from backends.vllm.client import Client
from backends.vllm.replica import AdapterLost, Replica
from backends.vllm.server import Server
from backends.vllm.server_errors import RequestRefused, ServerUnavailable
from backends.vllm.serving import key_from_environment
from backends.vllm.transport import RequestClock
from opsd_cli.config.schema import Config
from opsd_cli.errors import OpsdError, TrainingError
from opsd_cli.processes.waiting import as_finished

T = TypeVar("T")
#: In which a lost server must say that it is alive; the others wait meanwhile.
_RETURN_SECONDS = 2.0


class ServerGone(Exception):
    """A server cannot be used any more; `error` is for the user if no other is left."""

    def __init__(self, error: OpsdError) -> None:
        super().__init__(error.message)
        self.error = error


class ServerPool:
    """One server or several.

    Args:
        config: the run.
        policy: the trainer's policy, which scores the canary.
        files: the adapter's folders.
        folder: for the logs of servers that are started.
        clock: time and waiting between requests; tests pass their own.
        tell: receives one-line warnings.

    Raises:
        UsageError: a server cannot be started with this config.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        files: AdapterFiles,
        folder: Path,
        clock: RequestClock | None,
        tell: Callable[[str], None],
    ) -> None:
        self._config = config
        self._tell = tell
        self._files = files
        self._closed = False
        self._lock = threading.Lock()
        self._last_error: OpsdError | None = None
        self._repairs: set[threading.Thread] = set()
        settings = config.rollouts.vllm
        self.replicas: list[Replica] = []
        if settings.url is not None:
            key = key_from_environment()
            for url in settings.addresses:
                client = Client(url, settings.request_seconds, key, clock=clock, tell=tell)
                self.replicas.append(Replica(client, None, files, settings.sleep))
                client.hands_over = partial(self._leave, self.replicas[-1])
        else:
            groups = settings.device_groups
            for number, devices in enumerate(groups, 1):
                log = folder / ("server.log" if len(groups) == 1 else f"server-{number}.log")
                server = Server(config, log, policy.context_limit, devices, clock, tell)
                self.replicas.append(Replica(server.client, server, files, settings.sleep))
        self.canary: Canary | None = None
        if len(self.replicas) > 1:
            self.canary = Canary(policy, config.adapter is None)

    @property
    def description(self) -> str:
        """Versions and addresses of the servers."""
        versions = ", ".join(sorted({replica.version for replica in self.replicas}))
        urls = ", ".join(replica.client.url for replica in self.replicas)
        number = "" if len(self.replicas) == 1 else f"{len(self.replicas)} servers: "
        return f"vLLM {versions} at {number}{urls}"

    def start(self) -> None:
        """Start every server, side by side, and check that it can serve this run.

        Raises:
            UsageError, BackendMissing, TrainingError: one cannot.
        """

        def work(replica: Replica) -> None:
            replica.start()
            replica.identify(self._config)

        side_by_side(work, self.replicas)

    def close(self) -> None:
        """End the servers that this run started, and unload the adapters of the others."""
        self._closed = True
        side_by_side(Replica.close, self.replicas)

    def sleep(self) -> None:
        """Have every server free its memory, if the run asks for that.

        Raises:
            UsageError: a server was not started with sleep mode.
            TrainingError: no server answers.
        """
        if self._config.rollouts.vllm.sleep:
            self._await_repairs()
            side_by_side(self._put_to_sleep, self._usable())

    def _put_to_sleep(self, replica: Replica) -> None:
        try:
            replica.sleep_mode.sleep()
        except ServerUnavailable as error:
            failed = replica.client.user_error(error, "go to sleep")
            self._give_up(replica, ServerGone(failed))

    # -- before rollouts -----------------------------------------------------------------------

    def prepare(self, adapter: str | None) -> list[Replica]:
        """Wake every server, load an adapter into it and prove it; None stands for the base.

        Returns:
            The servers that can be used, at least one.

        Raises:
            UsageError, TrainingError: there is none, or the servers differ.
        """
        self._require_open()
        self._await_repairs()
        side_by_side(lambda replica: self._prepared(replica, adapter), self.replicas)
        usable = self._usable()
        if not usable and self._last_error is not None:
            raise self._last_error
        if self.canary is not None:
            self.canary.compare(usable, adapter)
        if adapter is not None:
            self._files.delete_before(adapter)
        return usable

    def _prepared(self, replica: Replica, adapter: str | None) -> None:
        if not replica.lost:
            self.bring(replica, adapter)
        elif replica.may_return and replica.client.alive(_RETURN_SECONDS):
            # It may be another server by now.
            replica.restarted()
            try:
                replica.identify(self._config)
            except OpsdError:
                return
            replica.lost = False
            replica.returns += 1
            if self.bring(replica, adapter):
                self._tell(f"the vLLM server at {replica.client.url} is back")

    def bring(
        self,
        replica: Replica,
        adapter: str | None,
        error: AdapterLost | ServerUnavailable | None = None,
    ) -> bool:
        """Have a server ready to sample, restarted and given the adapter again if need be.

        Args:
            error: how it failed, if it did.

        Returns:
            False if it is given up and others go on.

        Raises:
            UsageError, TrainingError: it refuses, or no server is left.
        """
        while True:
            try:
                if error is not None:
                    self._repair(replica, error)
                replica.sleep_mode.wake()
                if adapter is not None:
                    replica.offer(adapter)
                if self.canary is not None:
                    self.canary.ask(replica, adapter)
                return True
            except (AdapterLost, ServerUnavailable) as failed:
                error = failed
            except RequestRefused as refused:
                raise replica.client.user_error(refused, "score a text") from refused
            except ServerGone as gone:
                self._give_up(replica, gone)
                return False

    def _repair(self, replica: Replica, error: AdapterLost | ServerUnavailable) -> None:
        """Undo a failure, as far as that is done before the adapter is loaded.

        Raises:
            ServerGone: this run did not start the server, or it has died too often.
            TrainingError: it has lost the adapter too often, or the run has ended.
        """
        self._require_open(error)
        if isinstance(error, AdapterLost):
            replica.lose_adapter(error)
            return
        if replica.server is None:
            raise ServerGone(replica.client.user_error(error, "answer")) from error
        replica.restarts += 1
        if replica.restarts > self._config.rollouts.vllm.restarts:
            hint = f"its log is {replica.server.log}"
            if error.late:
                hint += "; raise rollouts.vllm.request_seconds if it is only slow"
            which = f" at {replica.client.url}" if len(self.replicas) > 1 else ""
            raise ServerGone(
                TrainingError(
                    f"the vLLM server{which} has died {replica.restarts} times: {error}", hint
                )
            ) from error
        try:
            replica.server.start()
        except TrainingError as failed:
            raise ServerGone(failed) from failed
        replica.restarted()

    def _give_up(self, replica: Replica, gone: ServerGone) -> None:
        """Go on without a server; raises the error for the user if it was the last one."""
        with self._lock:
            replica.lost, self._last_error = True, gone.error
            left = len(self._usable())
        if left == 0 or self._closed:
            raise gone.error from gone
        number = "one" if left == 1 else str(left)
        self._tell(f"{gone.error.message}; the other {number} of {len(self.replicas)} go on")

    def _leave(self, replica: Replica, error: ServerUnavailable) -> bool:
        """Give a server up whose connection has failed, if others go on; what it was asked fails.

        Decided for one server after another, so that the last one is asked again for a while.
        """
        with self._lock:
            others = any(each is not replica for each in self._usable())
            replica.lost |= others
            return others

    def _usable(self) -> list[Replica]:
        return [replica for replica in self.replicas if not replica.lost]

    def _require_open(self, error: Exception | None = None) -> None:
        if self._closed:
            raise was_ended() from error

    # -- during rollouts -----------------------------------------------------------------------

    def repair_aside(self, work: Callable[[], None]) -> None:
        """Repair a server in a thread of its own; the next `prepare` and `sleep` wait for it."""

        def run() -> None:
            try:
                work()
            finally:
                self._repairs.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="repair of a vLLM server", daemon=True)
        self._repairs.add(thread)
        thread.start()

    def _await_repairs(self) -> None:
        for thread in list(self._repairs):
            while thread.is_alive():
                thread.join(1)  # not for ever: see opsd_cli.processes.waiting


def was_ended() -> TrainingError:
    """The error of rollouts that `close` has cancelled."""
    return TrainingError("the vLLM server was ended", "nothing is to be done")


def side_by_side(work: Callable[[T], object], items: Sequence[T]) -> None:
    """Call `work` for each item, in a thread each, and wait; the first failure is raised at once.

    A single item is worked on by the calling thread.
    """
    if len(items) == 1:
        work(items[0])
        return
    if not items:
        return
    pool = ThreadPoolExecutor(len(items), thread_name_prefix="vLLM servers")
    try:
        jobs = [pool.submit(work, item) for item in items]
        for job in as_finished(jobs):
            job.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
