"""A rank other than 0: it holds a replica of the model, and does what rank 0 calls.

    python -m backends.parallel.worker

with the variables of `backends.shared.placement` and `backends.parallel.ranks`. It writes no file
but temporary ones, and prints nothing: its errors go to rank 0.
"""

from __future__ import annotations

import signal
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import backends
from backends.interface import (
    DecodingReport,
    LossBatch,
    Memory,
    Observable,
    RolloutRequest,
    Sampling,
    TeacherWeights,
)
from backends.parallel.control import Channel
from backends.parallel.messages import Call, Close, Done, Failed, Partial
from backends.parallel.progress import RankProgress
from backends.parallel.share import Files, Sequences, Share, ShareReport, folder_of, joined
from opsd_cli.config.schema import Config
from opsd_cli.errors import OpsdError

#: Least time between two reports of progress.
REPORT_SECONDS = 0.5


class Worker:
    """Answers rank 0's calls, one after another; each public method is one.

    Args:
        channel: to rank 0.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._share: Share | None = None
        self._reported = 0.0

    def run(self) -> None:
        """Answer until rank 0 closes the connection."""
        while not isinstance(message := self._channel.receive(), Close):
            assert isinstance(message, Call)
            self._channel.cancelled = False
            try:
                value = getattr(self, message.method)(*message.arguments)
            except Exception as error:
                self._channel.send(_failure(error))
                continue
            self._channel.send(Done(value, time.process_time()))
        if self._share is not None:
            self._share.close()

    # -- calls ---------------------------------------------------------------------------------

    def load(
        self,
        config: Config,
        trainable: bool,
        adapter: Files | None,
        meeting: tuple[int, int, str] | None,
    ) -> None:
        """Load the model, with the adapter in these files in place of the config's.

        Args:
            meeting: this rank, the number of ranks, and rank 0's address, where the ranks meet for
                training before they load; else None.
        """
        if self._share is not None:
            self._share.close()
            self._share = None
        with ExitStack() as met, ExitStack() as stack:
            exchange = None
            if meeting is not None:
                exchange = joined(config, *meeting, self._channel.broadcast)
                met.callback(exchange.close)
            if adapter is not None:
                folder = stack.enter_context(folder_of(adapter))
                config = config.model_copy(update={"adapter": str(folder)})
            policy = backends.get(config.backend).load(config, trainable)
            met.pop_all()  # it stays open until another model is loaded
        if isinstance(policy, Observable):
            policy.observe(self)
        self._share = Share(config, policy, exchange)

    def fingerprint(self) -> tuple[str, list[float]]:
        """As `Share.fingerprint`."""
        return self._loaded.fingerprint()

    def digest(self) -> str:
        """As `Share.digest`."""
        return self._loaded.digest()

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"],
        teacher: TeacherWeights,
    ) -> None:
        """As `Policy.generate`; each rollout is sent as it finishes."""
        rollouts = self._loaded.policy.generate(requests, sampling, role, teacher)
        try:
            for rollout in rollouts:
                self._channel.send(Partial(rollout))
                if self._channel.cancelled:
                    return
        except _Abandoned:
            return

    def score(
        self,
        units: Sequence[Sequences],
        role: Literal["student", "teacher"],
        teacher: TeacherWeights,
        sampling: Sampling,
        passes: int,
    ) -> Any:
        """As `Share.score`."""
        return self._loaded.score(units, role, teacher, sampling, passes)

    def measure(self, batch: LossBatch, units: Sequence[Sequence[int]], passes: int) -> ShareReport:
        """As `Share.measure`."""
        return self._loaded.measure(batch, units, passes)

    def accumulate(
        self, batch: LossBatch | int, units: Sequence[Sequence[int]], passes: int
    ) -> ShareReport:
        """As `Share.accumulate`."""
        return self._loaded.accumulate(batch, units, passes)

    def add_up(self) -> None:
        """As `Share.add_up`."""
        self._loaded.add_up()

    def apply(self, learning_rate: float) -> float:
        """As `Policy.apply`."""
        return self._loaded.policy.apply(learning_rate)

    def restore(self, files: Files) -> None:
        """As `Policy.restore`."""
        self._from_files(self._loaded.policy.restore, files)

    def load_adapter(self, files: Files) -> None:
        """As `Policy.load_adapter`."""
        self._from_files(self._loaded.policy.load_adapter, files)

    def memory(self) -> Memory:
        """As `Policy.memory`."""
        return self._loaded.policy.memory()

    # -- an observer, of its own policy ----------------------------------------------------------

    def decoding(self, report: DecodingReport) -> None:
        """As `Observer.decoding`."""
        if self._channel.cancelled:
            raise _Abandoned
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self._reported = time.monotonic()
            self._channel.send(
                Partial(
                    RankProgress(
                        report.tokens,
                        report.most,
                        report.finished,
                        report.stopped,
                        report.prompt_tokens,
                        report.prompt_total,
                    )
                )
            )

    def learning(self, done: int, total: int) -> None:
        """As `Observer.learning`; rank 0 reports its own."""

    @property
    def _loaded(self) -> Share:
        assert self._share is not None
        return self._share

    @staticmethod
    def _from_files(load: Callable[[Path], None], files: Files) -> None:
        with folder_of(files) as folder:
            load(folder)


class _Abandoned(Exception):
    """Rank 0 has cancelled the call."""


def _failure(error: Exception) -> Failed:
    told = isinstance(error, OpsdError)
    message = str(error) if told else f"{type(error).__name__}: {error}"
    return Failed(
        type(error).__name__ if told else "TrainingError",
        " ".join(message.split()),
        cast(OpsdError, error).hint if told else "run with --debug for its traceback",
        "".join(traceback.format_exception(error)),
    )


def serve(channel: Channel) -> None:
    """Be a worker until rank 0 needs no more.

    Signals are for rank 0, which saves and then dismisses its workers; a worker exits when rank 0
    does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    Worker(channel).run()


def main() -> None:
    """A worker that rank 0 has started on its own machine."""
    from backends.parallel.ranks import join_as_worker
    from opsd_cli.processes import child_processes

    child_processes.watch_parent()
    channel = join_as_worker()
    if channel is not None:
        serve(channel)


if __name__ == "__main__":
    main()
