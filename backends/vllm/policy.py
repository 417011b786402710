"""A policy whose rollouts a vLLM server draws, and everything else the backend's own policy does.

The base model is loaded by the server once. After each optimiser step the adapter alone is saved,
under a name that says which version of the weights it is, and hot-loaded before the next rollouts:
nothing is merged, and the base is never written. The version that drew a rollout is therefore
always the one that learns from it.

A server that dies is started anew, given the newest adapter, and asked again for the rollouts that
were under way. They have the same seeds, so nothing of the step is lost.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from backends.interface import LossBatch, Policy, Rollout, RolloutRequest, Sampling, TeacherWeights
from backends.rollout_rows import begin
from backends.vllm.client import Client, Refused, ServerGone
from backends.vllm.server import Server
from opsd_cli.config import Config
from opsd_cli.errors import TrainingError, UsageError


class VllmPolicy:
    """See `backends.interface.Policy`; what is not here is the inner policy's.

    Args:
        config: the run.
        inner: the backend's policy, which learns.
        folder: for adapters and the server's log; a server elsewhere must see it by this path.

    Raises:
        UsageError, BackendMissing, TrainingError: there is no server that can be used.
    """

    def __init__(self, config: Config, inner: Policy, folder: Path) -> None:
        self._inner = inner
        self._config = config
        self._folder = Path(config.rollouts.vllm.adapters or folder).resolve()
        self._server: Server | None = None
        # No other run's, nor this one's before it was killed: a server or a folder may hold both.
        self._prefix = f"opsd-{uuid.uuid4().hex[:8]}"
        self._version = 0
        self._loaded: str | None = None
        self._asleep = False
        self._restarts = 0
        self._ahead: Future[list[Rollout]] | None = None
        self._closed = False
        # Whether the base alone is what the student is until its first step.
        self._has_adapter = config.adapter is not None
        url = config.rollouts.vllm.url
        if url is None:
            self._server = Server(config, self._folder, config.model_path, inner.context_limit)
            self._client = self._server.client
            self._server.start()
        else:
            self._client = Client(url.rstrip("/"), config.rollouts.vllm.request_seconds)
            if not self._client.alive():
                raise UsageError(
                    f"no vLLM server answers at {url}",
                    "start one with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or "
                    "leave rollouts.vllm.url unset to have one started",
                )
        self.version = self._client.require_new_enough()
        self._base = self._client.models()[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def description(self) -> str:
        return f"{self._inner.description}; rollouts by vLLM {self.version} at {self._client.url}"

    def close(self) -> None:
        """End the server, if it is ours, and drop the adapters it was given."""
        self._closed = True
        self._client.hang_up()
        if self._server is not None:
            self._server.stop()
        elif self._loaded is not None:
            self._forget(self._loaded)
        for folder in self._folder.glob(f"{self._prefix}-v*"):
            shutil.rmtree(folder, ignore_errors=True)

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

    def accumulate(self, batch: LossBatch) -> Any:
        if self._config.rollouts.vllm.sleep and not self._asleep:
            self._client.sleep()
            self._asleep = True
        return self._inner.accumulate(batch)

    def _changed(self) -> None:
        self._version += 1
        self._has_adapter = True

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
            yield from self._inner.generate(requests, sampling, role, teacher)
            return
        yield from self._drawing(requests, sampling, self._newest() if live else self._base)

    def draw_ahead(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        """As `DrawsAhead.draw_ahead`: the adapter is written now, and drawn with in a thread."""
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
        waiting = [row.request for row in rows]
        rooms = {id(row.request): row.room for row in rows}
        while waiting:
            try:
                for rollout in self._draw(waiting, rooms, sampling, model):
                    waiting.remove(rollout.request)
                    yield rollout
            except ServerGone as error:
                self._revive(error)

    def _draw(
        self,
        requests: Sequence[RolloutRequest],
        rooms: dict[int, int],
        sampling: Sampling,
        model: str,
    ) -> Iterator[Rollout]:
        if self._asleep:
            self._client.wake()
            self._asleep = False
        if model != self._base:
            self._offer(model)
        pool = ThreadPoolExecutor(min(len(requests), self._config.rollouts.batch_size))
        try:
            jobs = [
                pool.submit(
                    self._complete,
                    model,
                    request,
                    _limited(sampling, rooms[id(request)]),
                )
                for request in requests
            ]
            for job in as_completed(jobs):
                try:
                    yield job.result()
                except Refused as error:
                    if error.status == 404 and model != self._base:
                        self._loaded = None  # a server that was restarted behind our back
                        raise ServerGone(str(error)) from error
                    raise TrainingError(
                        f"vLLM refuses a prompt: {error}",
                        "compare its --max-model-len with the prompts and sampling.max_new_tokens",
                    ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, model: str, request: RolloutRequest, sampling: Sampling) -> Rollout:
        if self._closed:
            raise ServerGone("it was told to end")
        return self._client.complete(model, request, sampling, self._inner.stop_ids)

    def _newest(self) -> str:
        """The name of the weights as they are, in a folder where they are not the base's."""
        if not self._has_adapter:
            return self._base
        name = f"{self._prefix}-v{self._version:06d}"
        folder = self._folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            self._inner.save_adapter(folder)
        return name

    def _offer(self, name: str) -> None:
        """Load an adapter into the server if it is not there, and drop the one before it."""
        if self._loaded == name:
            return
        try:
            self._client.load_adapter(name, str(self._folder / name))
        except Refused as error:
            # After a lost answer it may be there: the name is of these weights and no others.
            if "already" not in str(error):
                raise UsageError(
                    f"the vLLM server does not take the adapter: {error}",
                    "it needs --enable-lora, a --max-lora-rank of at least lora.rank, "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and to see "
                    f"{self._folder} under that path (rollouts.vllm.adapters names another)",
                ) from error
        before, self._loaded = self._loaded, name
        if before is not None:
            self._forget(before)
            shutil.rmtree(self._folder / before, ignore_errors=True)

    def _forget(self, name: str) -> None:
        with contextlib.suppress(Refused, ServerGone):  # it is gone, which was the wish
            self._client.unload_adapter(name)

    def _revive(self, error: ServerGone) -> None:
        """Bring the server back.

        Raises:
            TrainingError: it is not ours to start, has died too often, or was ended by `close`
                while rollouts were drawn ahead.
        """
        self._loaded = None
        if self._closed:
            raise TrainingError("the vLLM server was ended", "nothing is to be done") from error
        if self._server is None:
            if self._client.alive():
                return
            raise TrainingError(
                f"the vLLM server at {self._client.url} does not answer: {error}",
                "start it again; everything up to the newest checkpoint is kept "
                "(opsd train --resume)",
            ) from error
        self._restarts += 1
        if self._restarts > self._config.rollouts.vllm.restarts:
            raise TrainingError(
                f"the vLLM server has died {self._restarts} times: {error}",
                f"its log is {self._folder / 'server.log'}",
            ) from error
        self._server.start()
        self._asleep = False


def _limited(sampling: Sampling, room: int) -> Sampling:
    """The sampling with a limit that the context has room for."""
    return sampling if room >= sampling.max_new_tokens else replace(sampling, max_new_tokens=room)
