"""Rollouts from a vLLM server, and what happens to them when the server fails.

Requests have fixed seeds, so those that a failed server left unfinished are sent again and give
the same tokens: a restart loses nothing of the step.

Completions are not streamed. Progress is therefore that of finished completions, reported at each
of them. Streaming would add a JSON object for every token, whose token ids and log-probabilities
would have to be put together again, also across retries, for the sake of the progress shown alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from backends.interface import Observer, Policy, Rollout, RolloutRequest, Sampling
from backends.shared.decoding import DecodingReporter, begin
from backends.shared.stop_strings import stop_strings
from backends.vllm.adapters import AdapterLost, Adapters
from backends.vllm.client import Client
from backends.vllm.responses import CompletionRequest
from backends.vllm.server import Server
from backends.vllm.server_errors import RequestRefused, ServerUnavailable
from backends.vllm.sleep_mode import SleepMode
from opsd_cli.config.schema import Config
from opsd_cli.errors import TrainingError


class RolloutSampler:
    """Samples a list of requests with one of the server's models.

    Args:
        config: the run.
        policy: the trainer's policy: stop tokens and context limit.
        client: of the server.
        server: the process, where this run started it and may restart it.
        adapters: the adapters that the server was given.
        sleep_mode: wakes the server before rollouts.
        vocabulary: one more than the highest token id; None if unknown.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        client: Client,
        server: Server | None,
        adapters: Adapters,
        sleep_mode: SleepMode,
        vocabulary: int | None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._client = client
        self._server = server
        self._adapters = adapters
        self._sleep_mode = sleep_mode
        self._vocabulary = vocabulary
        self._restarts = 0
        self._closed = False
        #: The client of the rollouts that are being sampled.
        self._current = client

    def close(self) -> None:
        """Cancel every request that is under way; no other begins."""
        self._closed = True
        self._current.cancel_requests()

    def sample(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        model: str,
        observer: Observer | None = None,
    ) -> Iterator[Rollout]:
        """The rollouts in the order in which they finish, across failures of the server.

        Args:
            model: the name of an adapter or of the base model at the server.
            observer: receives a report at the start and one for each finished rollout, with the
                tokens of finished rollouts only; see the module.

        Raises:
            ModelError: a prompt has no tokens.
            UsageError: the server cannot be used as it was started.
            TrainingError: the server is gone for good, or gives an unusable answer.
        """
        rows, full = begin(requests, sampling, self._policy.context_limit)
        reporter = DecodingReporter(rows, observer)
        reporter.report((), at_once=True)
        yield from full
        stop = stop_strings(sampling.stop, self._policy.tokenizer)
        waiting = {
            id(row.request): CompletionRequest(
                model, row.request, row.room, self._policy.stop_ids, self._vocabulary, stop
            )
            for row in rows
        }
        while waiting:
            try:
                for rollout in self._attempt(list(waiting.values()), sampling):
                    room = waiting.pop(id(rollout.request)).limit
                    self._adapters.losses = 0
                    reporter.ended(room, rollout)
                    reporter.report((), at_once=True)
                    yield rollout
            except AdapterLost as error:
                self._adapters.lost(error)
            except ServerUnavailable as error:
                self._restart(error)

    def _attempt(
        self, waiting: Sequence[CompletionRequest], sampling: Sampling
    ) -> Iterator[Rollout]:
        """Send every request once; the first failure ends the attempt."""
        model = waiting[0].model
        self._sleep_mode.wake()
        if self._adapters.includes(model):
            self._adapters.offer(model)
        client = self._current = self._client.copy()
        failed: list[Exception] = []
        pool = ThreadPoolExecutor(min(len(waiting), self._config.rollouts.batch_size))
        try:
            jobs = [pool.submit(self._complete, client, one, sampling, failed) for one in waiting]
            for job in as_completed(jobs):
                if job.exception() is not None:
                    raise self._failure_of_attempt(failed[0], model)
                yield job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            client.cancel_requests()  # the answers to unfinished requests are not read

    def _complete(
        self,
        client: Client,
        wanted: CompletionRequest,
        sampling: Sampling,
        failed: list[Exception],
    ) -> Rollout:
        """One rollout. The first that fails cancels the others of the attempt."""
        try:
            if self._closed:
                raise ServerUnavailable("it was told to end")
            return client.complete(wanted, sampling)
        except Exception as error:
            failed.append(error)
            client.cancel_requests()
            raise

    def _failure_of_attempt(self, error: Exception, model: str) -> Exception:
        """What the failure of one rollout means for the attempt."""
        if not isinstance(error, RequestRefused):
            return error
        if error.status == 404 and self._adapters.includes(model):
            return AdapterLost(str(error))
        if error.status in (400, 404, 413, 422):
            return TrainingError(
                f"the vLLM server at {self._client.url} refuses a prompt: {error}",
                "compare its --max-model-len with the prompts and sampling.max_new_tokens",
            )
        return self._client.user_error(error, "take a prompt")

    def _restart(self, error: ServerUnavailable) -> None:
        """Start the server again.

        Raises:
            TrainingError: this run did not start it, it has died too often, or `close` ended it
                while rollouts were prefetched.
        """
        self._adapters.forgotten()
        if self._closed:
            raise TrainingError("the vLLM server was ended", "nothing is to be done") from error
        if self._server is None:
            raise self._client.user_error(error, "answer") from error
        self._restarts += 1
        if self._restarts > self._config.rollouts.vllm.restarts:
            hint = f"its log is {self._server.log}"
            if error.late:
                hint += "; raise rollouts.vllm.request_seconds if it is only slow"
            raise TrainingError(
                f"the vLLM server has died {self._restarts} times: {error}", hint
            ) from error
        self._server.start()
        self._sleep_mode.restarted()
