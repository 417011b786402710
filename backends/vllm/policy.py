"""A policy whose rollouts a vLLM server draws, and everything else the backend's own policy does.

The base model is loaded by the server once. After each optimiser step the adapter alone is saved,
under a name that says which version of the weights it is, and hot-loaded before the next rollouts:
nothing is merged, and the base is never written. The version that drew a rollout is therefore
always the one that learns from it.

A server that dies is started anew, given the newest adapter, and asked again for the rollouts that
were under way. They have the same seeds, so nothing of the step is lost. A server at an address of
somebody else's is waited for, for as long as `backends.vllm.client` does, and then given up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backends.interface import (
    PLAIN,
    BatchReport,
    LossBatch,
    Policy,
    Rollout,
    RolloutRequest,
    Sampling,
    TeacherWeights,
)
from backends.shared.decoding import begin
from backends.vllm.adapters import AdapterLost, Adapters
from backends.vllm.answers import Asked
from backends.vllm.client import Client
from backends.vllm.server import Server
from backends.vllm.serving import key_from_environment, require_model, vocabulary_of
from backends.vllm.transport import Clock
from backends.vllm.trouble import Refused, ServerGone
from opsd_cli.config.schema import Config
from opsd_cli.errors import TrainingError


class VllmPolicy:
    """See `backends.interface.Policy`; what is not here is the inner policy's.

    Args:
        config: the run.
        inner: the backend's policy, which learns.
        folder: for adapters and the server's log; a server elsewhere must see it by this path.
        clock: tells the time between one request and the next.
        tell: is told that a server in trouble is asked again.

    Raises:
        UsageError, BackendMissing, TrainingError: there is no server that can be used.
    """

    def __init__(
        self,
        config: Config,
        inner: Policy,
        folder: Path,
        clock: Clock | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._inner = inner
        self._config = config
        folder = Path(config.rollouts.vllm.adapters or folder).resolve()
        self._server: Server | None = None
        self._restarts = 0
        self._ahead: Future[list[Rollout]] | None = None
        self._closed = False
        # Whether the base alone is what the student is until its first step.
        self._has_adapter = config.adapter is not None
        self._vocabulary = vocabulary_of(config, inner)
        url = config.rollouts.vllm.url
        # None: not known. A server at an address may sleep since a run that was killed.
        self._asleep = None if config.rollouts.vllm.sleep and url is not None else False
        if url is None:
            self._server = Server(
                config, folder, config.model_path, inner.context_limit, clock, tell
            )
            self._client = self._server.client
        else:
            seconds = config.rollouts.vllm.request_seconds
            key = key_from_environment()
            self._client = Client(url.rstrip("/"), seconds, key, clock=clock, tell=tell)
        self._adapters = Adapters(self._client, inner, folder)
        #: The client of the rollouts under way.
        self._drawer = self._client
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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def description(self) -> str:
        return f"{self._inner.description}; rollouts by vLLM {self.version} at {self._client.url}"

    def close(self) -> None:
        """End the server, if it is ours, and drop the adapters it was given."""
        self._closed = True
        self._client.hang_up()
        self._drawer.hang_up()
        if self._server is not None:
            self._server.stop()
        self._adapters.close(served=self._server is None)

    # -- weights -------------------------------------------------------------------------------

    def apply(self, learning_rate: float) -> float:
        norm = self._inner.apply(learning_rate)
        self._changed()
        return norm

    def restore(self, folder: Path) -> None:
        self._inner.restore(folder)
        self._changed()

    def load_adapter(self, folder: Path) -> None:
        self._inner.load_adapter(folder)
        self._changed()

    def _changed(self) -> None:
        self._adapters.changed()
        self._has_adapter = True

    # -- the trainer's own passes, which the server's memory is given up for --------------------

    def accumulate(self, batch: LossBatch) -> BatchReport:
        self._rest()
        return self._inner.accumulate(batch)

    def measure(self, batch: LossBatch) -> BatchReport:
        self._rest()
        return self._inner.measure(batch)

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        """As `Policy.score`."""
        self._rest()
        return self._inner.score(sequences, role, teacher, sampling)

    def _rest(self) -> None:
        """Let the server give its memory up, where the run asks for that.

        Raises:
            UsageError, TrainingError: it does not.
        """
        if not self._config.rollouts.vllm.sleep or self._asleep:
            return
        try:
            self._client.sleep()
        except Refused as error:
            refused = self._client.explained(error, "go to sleep")
            if error.status in (404, 405):
                refused.hint = (
                    "start it with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, or leave "
                    "rollouts.vllm.sleep out"
                )
            raise refused from error
        except ServerGone as error:
            if self._server is None or not self._server.dead:
                raise self._client.explained(error, "go to sleep") from error
            return  # it has died, and holds no memory; it is started again when it is to draw
        self._asleep = True

    def _wake(self) -> None:
        if self._asleep is False:
            return
        try:
            self._client.wake()
        except Refused as error:
            raise self._client.explained(error, "wake up") from error
        self._asleep = False

    # -- rollouts ------------------------------------------------------------------------------

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """As `Policy.generate`. A teacher of weights that no adapter file holds (a moving average,
        or an adapter that the run started from) is drawn by the backend's own engine."""
        if self._ahead is not None:
            wait([self._ahead])
        live = role == "student" or teacher == "live"
        if not live and (teacher == "ema" or self._config.adapter is not None):
            self._rest()
            yield from self._inner.generate(requests, sampling, role, teacher)
            return
        yield from self._drawing(requests, sampling, self._newest() if live else self._base)

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        """As `Prefetches.prefetch`: the adapter is written now, and drawn with in a thread."""
        model = self._newest()
        drawing: Future[list[Rollout]] = Future()

        def work() -> None:
            try:
                drawing.set_result(list(self._drawing(requests, sampling, model)))
            except BaseException as error:
                drawing.set_exception(error)

        threading.Thread(target=work, name="rollouts ahead", daemon=True).start()
        self._ahead = drawing
        return drawing

    def _drawing(
        self, requests: Sequence[RolloutRequest], sampling: Sampling, model: str
    ) -> Iterator[Rollout]:
        """Rollouts by one model of the server, whatever happens to the server meanwhile."""
        rows, full = begin(requests, sampling, self._inner.context_limit)
        yield from full
        waiting = {
            id(row.request): Asked(
                model, row.request, row.room, self._inner.stop_ids, self._vocabulary
            )
            for row in rows
        }
        while waiting:
            try:
                for rollout in self._draw(list(waiting.values()), sampling):
                    del waiting[id(rollout.request)]
                    self._adapters.losses = 0
                    yield rollout
            except AdapterLost as error:
                self._adapters.lost(error)
            except ServerGone as error:
                self._revive(error)

    def _draw(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[Rollout]:
        model = asked[0].model
        self._wake()
        if model != self._base:
            self._adapters.offer(model)
        client = self._drawer = self._client.afresh()
        failed: list[Exception] = []
        pool = ThreadPoolExecutor(min(len(asked), self._config.rollouts.batch_size))
        try:
            jobs = [pool.submit(self._complete, client, one, sampling, failed) for one in asked]
            for job in as_completed(jobs):
                if job.exception() is not None:
                    raise self._explained(failed[0], model)
                yield job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            client.hang_up()  # of what is still asked for, nobody reads the answer

    def _complete(
        self, client: Client, asked: Asked, sampling: Sampling, failed: list[Exception]
    ) -> Rollout:
        """One rollout. The first that fails ends the others, which cannot be of use alone."""
        try:
            if self._closed:
                raise ServerGone("it was told to end")
            return client.complete(asked, sampling)
        except Exception as error:
            failed.append(error)
            client.hang_up()
            raise

    def _explained(self, error: Exception, model: str) -> Exception:
        """What a rollout that failed means for the others."""
        if not isinstance(error, Refused):
            return error
        if error.status == 404 and model != self._base:
            return AdapterLost(str(error))
        if error.status in (400, 404, 413, 422):
            return TrainingError(
                f"the vLLM server at {self._client.url} refuses a prompt: {error}",
                "compare its --max-model-len with the prompts and sampling.max_new_tokens",
            )
        return self._client.explained(error, "take a prompt")

    def _newest(self) -> str:
        """The name of the weights as they are, in a folder where they are not the base's."""
        return self._adapters.newest() if self._has_adapter else self._base

    # -- failure -------------------------------------------------------------------------------

    def _revive(self, error: ServerGone) -> None:
        """Bring the server back.

        Raises:
            TrainingError: it is not ours to start, has died too often, or was ended by `close`
                while rollouts were drawn ahead.
        """
        self._adapters.forgotten()
        if self._closed:
            raise TrainingError("the vLLM server was ended", "nothing is to be done") from error
        if self._server is None:
            raise self._client.explained(error, "answer") from error
        self._restarts += 1
        if self._restarts > self._config.rollouts.vllm.restarts:
            hint = f"its log is {self._server.log}"
            if error.late:
                hint += "; raise rollouts.vllm.request_seconds if it is only slow"
            raise TrainingError(
                f"the vLLM server has died {self._restarts} times: {error}", hint
            ) from error
        self._server.start()
        self._asleep = False
