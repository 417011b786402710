"""A policy whose rollouts a vLLM server samples; the backend's own policy does everything else.

The server loads the base model once. After each optimiser step only the adapter is saved, under a
name that contains the version of the weights, and loaded into the server before the next rollouts:
nothing is merged, and the base is never written. Every rollout therefore comes from exactly the
version of the weights that its name says.

A server that this run started is restarted when it dies, gets the newest adapter again, and is
asked again for the unfinished rollouts (`backends.vllm.rollouts`). A server at a given address is
waited for as long as `backends.vllm.client` does; then others go on without it, or the run ends
with an error. Several servers sample side by side (`backends.vllm.pool`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

import numpy as np

from backends.interface import (
    PLAIN,
    BatchReport,
    LossBatch,
    Observer,
    Policy,
    Rollout,
    RolloutRequest,
    Sampling,
    TeacherWeights,
)
from backends.shared.delegation import DelegatingPolicy
from backends.vllm.adapters import AdapterFiles
from backends.vllm.pool import ServerPool
from backends.vllm.rollouts import RolloutSampler
from backends.vllm.serving import vocabulary_of
from backends.vllm.transport import RequestClock
from opsd_cli.config.schema import Config
from opsd_cli.processes.waiting import until_done


class VllmPolicy(DelegatingPolicy):
    """See `backends.interface.Policy` and `Prefetches`.

    Methods not defined here are forwarded to the inner policy.

    Args:
        config: the run.
        inner: the backend's policy, which learns.
        folder: for adapters and the server's log; a server elsewhere must see it by this path.
        clock: time and waiting between requests; tests pass their own.
        tell: receives a one-line warning when a request is retried.

    Raises:
        UsageError, BackendMissing, TrainingError: a server cannot be used.
    """

    def __init__(
        self,
        config: Config,
        inner: Policy,
        folder: Path,
        clock: RequestClock | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(inner)
        self._config = config
        settings = config.rollouts.vllm
        folder = Path(settings.adapters or folder).resolve()
        self._files = AdapterFiles(inner, folder)
        self._pool = ServerPool(config, inner, self._files, folder, clock, tell)
        self._sampler = RolloutSampler(config, inner, self._pool, vocabulary_of(config, inner))
        #: The rollouts of the last `prefetch`, until `generate` has waited for them.
        self._prefetching: Future[list[Rollout]] | None = None
        self._observer: Observer | None = None
        #: True while the student's weights are the base model's: from the start of a run without
        #: an adapter until its first step, or until weights are loaded.
        self._student_is_base = config.adapter is None
        try:
            self._pool.start()
        except BaseException:  # Ctrl-C too: loading a model takes minutes
            self.close()
            raise

    @property
    def description(self) -> str:
        return f"{self._inner.description}; rollouts by {self._pool.description}"

    def close(self) -> None:
        """End the servers that this run started, and remove the adapters that were given."""
        self._sampler.close()
        self._pool.close()
        self._files.close()

    # -- changes of the weights ----------------------------------------------------------------

    def apply(self, learning_rate: float) -> float:
        norm = super().apply(learning_rate)
        self._weights_changed()
        return norm

    def restore(self, folder: Path) -> None:
        super().restore(folder)
        self._weights_changed()

    def load_adapter(self, folder: Path) -> None:
        super().load_adapter(folder)
        self._weights_changed()

    def _weights_changed(self) -> None:
        self._files.changed()
        self._student_is_base = False

    # -- the trainer's own passes, for which the server frees its memory ------------------------

    def accumulate(self, batch: LossBatch) -> BatchReport:
        self._pool.sleep()
        return super().accumulate(batch)

    def measure(self, batch: LossBatch) -> BatchReport:
        self._pool.sleep()
        return super().measure(batch)

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        self._pool.sleep()
        return super().score(sequences, role, teacher, sampling)

    # -- rollouts ------------------------------------------------------------------------------

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """As `Policy.generate`; it first waits for prefetched rollouts.

        The backend's own engine samples for a teacher whose weights are in no adapter file of the
        server: a moving average, another model, or the adapter that the run started from.
        """
        if self._prefetching is not None:
            until_done(self._prefetching)
            self._prefetching = None
        live = role == "student" or teacher == "live"
        elsewhere = teacher in ("ema", "model") or self._config.adapter is not None
        if not live and elsewhere:
            self._pool.sleep()
            yield from super().generate(requests, sampling, role, teacher)
            return
        adapter = self._newest() if live else None
        yield from self._sampler.sample(requests, sampling, adapter, self._observer)

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        """As `Prefetches.prefetch`: the adapter is written now, and a thread samples with it."""
        adapter, observer = self._newest(), self._observer
        prefetched: Future[list[Rollout]] = Future()

        def work() -> None:
            try:
                drawn = self._sampler.sample(requests, sampling, adapter, observer)
                prefetched.set_result(list(drawn))
            except BaseException as error:
                prefetched.set_exception(error)

        threading.Thread(target=work, name="prefetched rollouts", daemon=True).start()
        self._prefetching = prefetched
        return prefetched

    def observe(self, observer: Observer | None) -> None:
        """As `Observable.observe`; rollouts of a prefetch are reported from its own thread."""
        super().observe(observer)
        self._observer = observer

    def _newest(self) -> str | None:
        """The name of the current weights' adapter, None for the base model's.

        Its files are written if need be, and the trainer scores the canary with these weights.
        """
        if self._student_is_base:
            return None
        name, canary = self._files.newest(), self._pool.canary
        if canary is not None and not canary.knows(name):
            self._pool.sleep()
            canary.note(name)
        return name
