"""Rollouts from vLLM servers, and what happens to them when a server fails.

Requests have fixed seeds, so those that a failed server left unfinished are sent again, to another
server or to the same one after its restart, and give the same tokens: nothing of the step is lost.

Completions are not streamed. Progress is therefore that of finished completions, reported at each
of them. Streaming would add a JSON object for every token, whose token ids and log-probabilities
would have to be put together again, also across retries, for the sake of the progress shown alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from backends.interface import Observer, Policy, Rollout, RolloutRequest, Sampling
from backends.shared.decoding import DecodingReporter, begin
from backends.shared.stop_strings import stop_strings
from backends.vllm.pool import ServerPool, was_ended
from backends.vllm.replica import AdapterLost
from backends.vllm.responses import CompletionRequest
from backends.vllm.routing import Lane, Router
from backends.vllm.server_errors import RequestRefused, ServerUnavailable
from opsd_cli.config.schema import Config
from opsd_cli.errors import OpsdError, TrainingError
from opsd_cli.processes.waiting import as_finished


class RolloutSampler:
    """Samples a list of requests with an adapter or the base model.

    Args:
        config: the run.
        policy: the trainer's policy: stop tokens and context limit.
        pool: the servers.
        vocabulary: one more than the highest token id; None if unknown.
    """

    def __init__(
        self, config: Config, policy: Policy, pool: ServerPool, vocabulary: int | None
    ) -> None:
        self._config = config
        self._policy = policy
        self._pool = pool
        self._vocabulary = vocabulary
        self._closed = False
        #: The requests that are being sampled.
        self._current: Router | None = None

    def close(self) -> None:
        """Cancel every request that is under way; no other begins."""
        self._closed = True
        if self._current is not None:
            self._current.end(was_ended())

    def sample(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        adapter: str | None,
        observer: Observer | None = None,
    ) -> Iterator[Rollout]:
        """The rollouts in the order in which they finish, across failures of servers.

        Args:
            adapter: its name at the servers; None for the base model.
            observer: receives a report at the start and one for each finished rollout, with the
                tokens of finished rollouts only; see the module.

        Raises:
            ModelError: a prompt has no tokens.
            UsageError: a server cannot be used as it was started.
            TrainingError: no server is left, or one gives an unusable answer.
        """
        rows, full = begin(requests, sampling, self._policy.context_limit)
        reporter = DecodingReporter(rows, observer)
        reporter.report((), at_once=True)
        yield from full
        if not rows:
            return
        stop = stop_strings(sampling.stop, self._policy.tokenizer)
        wanted = [
            CompletionRequest(
                adapter or "", row.request, row.room, self._policy.stop_ids, self._vocabulary, stop
            )
            for row in rows
        ]
        limits = {id(row.request): row.room for row in rows}
        router = self._current = Router(self._pool, self._pool.prepare(adapter), adapter)
        threads = ThreadPoolExecutor(min(len(rows), self._config.rollouts.batch_size))
        try:
            if self._closed:
                raise was_ended()
            jobs = [threads.submit(self._complete, router, one, sampling) for one in wanted]
            for job in as_finished(jobs):
                error = job.exception()
                if error is not None:
                    raise router.failure or error
                rollout = job.result()
                reporter.ended(limits[id(rollout.request)], rollout)
                reporter.report((), at_once=True)
                yield rollout
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            router.end()  # the answers to unfinished requests are not read

    def _complete(self, router: Router, wanted: CompletionRequest, sampling: Sampling) -> Rollout:
        """One rollout, from the first server that completes it."""
        tokens = len(wanted.request.prompt_ids) + wanted.limit
        while True:
            lane = router.acquire(tokens)
            model = wanted.model or lane.replica.base
            try:
                rollout = lane.client.complete(replace(wanted, model=model), sampling)
            except ServerUnavailable as error:
                lane.replica.late |= error.late
                router.failed(lane, error)
            except Exception as error:
                if not router.uses(lane):  # the answer was cut off when another request failed
                    continue
                failure = self._failure(lane, error, bool(wanted.model))
                if not isinstance(failure, AdapterLost):
                    router.end(failure)
                    raise failure from error
                router.failed(lane, failure)
            else:
                lane.replica.completed()
                return rollout
            finally:
                router.release(lane, tokens)

    @staticmethod
    def _failure(
        lane: Lane, error: Exception, adapted: bool
    ) -> OpsdError | AdapterLost | Exception:
        """What an error of one request means."""
        if not isinstance(error, RequestRefused):
            return error
        if error.status == 404 and adapted:
            return AdapterLost(str(error))
        if error.status in (400, 404, 413, 422):
            return TrainingError(
                f"the vLLM server at {lane.client.url} refuses a prompt: {error}",
                "compare its --max-model-len with the prompts and sampling.max_new_tokens",
            )
        return lane.client.user_error(error, "take a prompt")
