"""A policy whose rollouts a vLLM server samples; the backend's own policy does everything else.

The server loads the base model once. After each optimiser step only the adapter is saved, under a
name that contains the version of the weights, and loaded into the server before the next rollouts:
nothing is merged, and the base is never written. Every rollout therefore comes from exactly the
version of the weights that its name says.

A server that this run started is restarted when it dies, gets the newest adapter again, and is
asked again for the unfinished rollouts (`backends.vllm.rollouts`). A server at a given address is
waited for as long as `backends.vllm.client` does, and then the run ends with an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
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
from backends.vllm.adapters import Adapters
from backends.vllm.client import Client
from backends.vllm.rollouts import RolloutSampler
from backends.vllm.server import Server
from backends.vllm.serving import key_from_environment, require_model, vocabulary_of
from backends.vllm.sleep_mode import SleepMode
from backends.vllm.transport import RequestClock
from opsd_cli.config.schema import Config


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
        UsageError, BackendMissing, TrainingError: no server can be used.
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
        vocabulary = vocabulary_of(config, inner)
        self._server: Server | None = None
        if settings.url is None:
            self._server = Server(
                config, folder, config.model_path, inner.context_limit, clock, tell
            )
            self._client = self._server.client
        else:
            url, key = settings.url.rstrip("/"), key_from_environment()
            self._client = Client(url, settings.request_seconds, key, clock=clock, tell=tell)
        self._adapters = Adapters(self._client, inner, folder)
        self._sleep_mode = SleepMode(self._client, self._server, settings.sleep)
        self._sampler = RolloutSampler(
            config, inner, self._client, self._server, self._adapters, self._sleep_mode, vocabulary
        )
        #: The rollouts of the last `prefetch`, until `generate` has waited for them.
        self._prefetching: Future[list[Rollout]] | None = None
        self._observer: Observer | None = None
        #: True while the student's weights are the base model's: from the start of a run without
        #: an adapter until its first step, or until weights are loaded.
        self._student_is_base = config.adapter is None
        try:
            if self._server is not None:
                self._server.start()
            else:
                self._client.require_alive()
            self.version = self._client.require_new_enough()
            self._base = require_model(self._client, config)
        except BaseException:  # Ctrl-C too: loading a model takes minutes
            self.close()
            raise

    @property
    def description(self) -> str:
        return f"{self._inner.description}; rollouts by vLLM {self.version} at {self._client.url}"

    def close(self) -> None:
        """End the server, if this run started it, and remove the adapters it was given."""
        self._client.cancel_requests()
        self._sampler.close()
        if self._server is not None:
            self._server.stop()
        self._adapters.close(served=self._server is None)

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
        self._adapters.changed()
        self._student_is_base = False

    # -- the trainer's own passes, for which the server frees its memory ------------------------

    def accumulate(self, batch: LossBatch) -> BatchReport:
        self._sleep_mode.sleep()
        return super().accumulate(batch)

    def measure(self, batch: LossBatch) -> BatchReport:
        self._sleep_mode.sleep()
        return super().measure(batch)

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        self._sleep_mode.sleep()
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
        server: a moving average, or the adapter that the run started from.
        """
        if self._prefetching is not None:
            wait([self._prefetching])
            self._prefetching = None
        live = role == "student" or teacher == "live"
        if not live and (teacher == "ema" or self._config.adapter is not None):
            self._sleep_mode.sleep()
            yield from super().generate(requests, sampling, role, teacher)
            return
        model = self._newest() if live else self._base
        yield from self._sampler.sample(requests, sampling, model, self._observer)

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        """As `Prefetches.prefetch`: the adapter is written now, and a thread samples with it."""
        model, observer = self._newest(), self._observer
        prefetched: Future[list[Rollout]] = Future()

        def work() -> None:
            try:
                drawn = self._sampler.sample(requests, sampling, model, observer)
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

    def _newest(self) -> str:
        """The server's name for the current weights; their folder is written if need be."""
        return self._base if self._student_is_base else self._adapters.newest()
