"""The requests to a vLLM server, over HTTP, with the standard library alone.

Prompts are sent as token ids and completions come back as token ids: text is never tokenised again.
Each completion is a request with its own seed, so a rollout's random numbers do not depend on which
other requests are under way; the server batches them as it likes.

Failed requests are retried a limited number of times, with waiting times that double. Its responses
are validated (`backends.vllm.responses`). Every error names the server and quotes its answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from packaging.version import InvalidVersion, Version

from backends.interface import Rollout, Sampling
from backends.vllm import responses
from backends.vllm.responses import OLDEST, CompletionRequest, InvalidResponse, UnsupportedServer
from backends.vllm.server_errors import RequestRefused, ServerUnavailable, user_error
from backends.vllm.transport import NoResponse, RequestClock, Response, ResponseTooLarge, Transport
from opsd_cli.errors import TrainingError, UsageError

#: Deadlines in seconds: of answers from memory, of optional requests, of loading an adapter or
#: moving the weights, and of the last request when a run ends.
_QUICK_SECONDS = 10.0
_ASIDE_SECONDS = 10.0
_ADAPTER_SECONDS = 300.0
PARTING_SECONDS = 2.0
_SHORT_BYTES = 2**22
#: Attempts per request in total; the first and the longest wait in seconds.
TRIES = 7
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
#: HTTP statuses of temporary failures: too many requests, a failing server or proxy.
_TEMPORARY = frozenset({429, 500, 502, 503, 504})
#: vLLM takes seeds as signed 64-bit numbers.
_SEED_MASK = 2**63 - 1

T = TypeVar("T")


class Client:
    """A server at an address. Thread-safe.

    Args:
        url: http://host:port.
        request_seconds: deadline of one completion.
        key: API key, if the server has one; no error and no log shows it.
        own: True if this run started the server. A failed connection then means that it has ended,
            and the request is not retried.
        clock: time and waiting.
        tell: receives a one-line warning when a request is retried.
    """

    def __init__(
        self,
        url: str,
        request_seconds: float,
        key: str | None = None,
        own: bool = False,
        clock: RequestClock | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        #: Asked after a failed connection; if others take the requests, none is retried here.
        self.hands_over: Callable[[ServerUnavailable], bool] = lambda error: False
        self.url = url
        self.request_seconds = request_seconds
        self._key = key
        self._own = own
        self._clock = clock or RequestClock()
        self._tell = tell
        self._transport = Transport(url, key, self._clock)
        self._told: set[int | None] = set()

    def copy(self) -> Client:
        """A client of the same server; `cancel_requests` of one does not affect the other."""
        other = Client(
            self.url, self.request_seconds, self._key, self._own, self._clock, self._tell
        )
        other._told = self._told
        return other

    def cancel_requests(self) -> None:
        """Abort every request that is under way, on which the server then stops working, and refuse
        new ones."""
        self._transport.cancel_requests()

    # -- the server ----------------------------------------------------------------------------

    def alive(self, seconds: float | None = None) -> bool:
        """True if /health answers with success within the seconds."""
        try:
            self._request("GET", "/health", seconds=seconds)
        except (ServerUnavailable, RequestRefused, InvalidResponse):
            return False
        return True

    def require_alive(self) -> None:
        """Wait until /health answers with success, while it answers with temporary failures.

        Raises:
            UsageError: no server answers, or it keeps failing.
        """
        try:
            self._with_retries(lambda: self._request("GET", "/health"), connections=False)
        except (ServerUnavailable, RequestRefused, InvalidResponse) as error:
            raise UsageError(
                f"no vLLM server answers at {self.url}: {error}",
                "start one with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or "
                "leave rollouts.vllm.url unset to have one started",
            ) from error

    def require_new_enough(self) -> str:
        """The server's version.

        Raises:
            UsageError: it is too old, or unknown.
            TrainingError: the server does not answer.
        """
        version = self._known("GET", "/version", responses.version)
        try:
            release = Version(version).release
        except InvalidVersion:  # a custom build; missing features show at their first use
            return version
        if release < OLDEST:
            raise UsageError(
                f"vLLM {version} at {self.url} is too old",
                f"at least {'.'.join(map(str, OLDEST))} is needed, for token ids in its answers",
            )
        return version

    def models(self) -> list[Mapping[str, Any]]:
        """The base models that it serves, without adapters: `id` is the name, `root` the source.

        Raises:
            UsageError, TrainingError: as `require_new_enough`.
        """
        return self._known("GET", "/v1/models", responses.served_models)

    def optional(self, path: str, read: Callable[[bytes], int]) -> int | None:
        """The number that `read` finds in the answer to a path, asked once; None without one."""
        try:
            return read(self._request("GET", path, seconds=_ASIDE_SECONDS).body)
        except (ServerUnavailable, RequestRefused, InvalidResponse):
            return None

    # -- adapters and memory -------------------------------------------------------------------

    def load_adapter(self, name: str, folder: str) -> None:
        """Load an adapter's folder, which the server must see under the same path.

        Raises:
            ServerUnavailable, RequestRefused, TrainingError: it is not loaded.
        """
        body = {"lora_name": name, "lora_path": folder}
        self._work("/v1/load_lora_adapter", body)

    def unload_adapter(self, name: str, seconds: float | None = None) -> None:
        """Unload it; sent once, without retries."""
        body = {"lora_name": name}
        self._request("POST", "/v1/unload_lora_adapter", body, seconds or _ASIDE_SECONDS)

    def sleep(self) -> None:
        """Free the GPU's memory; the weights move to main memory."""
        self._work("/sleep?level=1", {})

    def wake(self) -> None:
        """Undo `sleep`."""
        self._work("/wake_up", {})

    # -- completions ---------------------------------------------------------------------------

    def complete(self, wanted: CompletionRequest, sampling: Sampling) -> Rollout:
        """One completion with the sampler's log-probability of each token, in nats.

        Raises:
            ServerUnavailable: the server does not answer.
            RequestRefused: it refuses the request.
            TrainingError: its response is not usable.
            UsageError: it lacks a feature that is needed.
        """
        request = wanted.request
        body = {
            "model": wanted.model,
            "prompt": list(request.prompt_ids),
            "max_tokens": wanted.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            # A value that is left out would come from the model's generation_config.json.
            "repetition_penalty": 1.0,
            "seed": request.seed & _SEED_MASK,
            "ignore_eos": True,  # the stop tokens are those of this run
            "stop_token_ids": sorted(wanted.stop_ids),
            "stop": list(sampling.stop),
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }

        def once() -> Rollout:
            answer = self._request(
                "POST", "/v1/completions", body, self.request_seconds, wanted.most_bytes
            )
            return responses.completion(responses.parsed_json(answer.body), wanted)

        try:
            return self._with_retries(once)
        except UnsupportedServer as error:
            raise UsageError(f"the vLLM at {self.url} {error}", error.hint) from error
        except InvalidResponse as error:
            raise TrainingError(
                f"the vLLM server at {self.url} gave an answer for problem "
                f"{request.problem_id!r} that cannot be used: {error}",
                error.hint,
            ) from error

    def prompt_log_probs(self, model: str, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities of a text's tokens but the first, nats, temperature 1, float32 [L - 1].

        Raises:
            ServerUnavailable, RequestRefused, TrainingError: there is no usable answer.
        """
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0}

        def once() -> np.ndarray:
            # A completion like any other: it waits its turn, and a server's first may compile.
            scored = body | {"prompt_logprobs": 0}
            answer = self._request("POST", "/v1/completions", scored, self.request_seconds)
            return responses.prompt_log_probs(responses.parsed_json(answer.body), model, ids)

        try:
            return self._with_retries(once)
        except InvalidResponse as error:
            raise TrainingError(
                f"the vLLM server at {self.url} scores a text in a way that cannot be used: "
                f"{error}",
                error.hint,
            ) from error

    # -- sending -------------------------------------------------------------------------------

    def user_error(
        self, error: ServerUnavailable | RequestRefused, what: str
    ) -> UsageError | TrainingError:
        """The error for the user: what the server was asked to do and what it answered."""
        return user_error(error, self.url, self._key is not None, what)

    def _known(self, method: str, path: str, read: Callable[[Any], T]) -> T:
        """The response of a short request, parsed by `read`."""

        def once() -> T:
            return read(responses.parsed_json(self._request(method, path).body))

        try:
            return self._with_retries(once)
        except InvalidResponse as error:
            raise UsageError(
                f"the vLLM server at {self.url} answers {path} in a way that cannot be used: "
                f"{error}",
                error.hint,
            ) from error
        except (ServerUnavailable, RequestRefused) as error:
            raise self.user_error(error, f"answer {path}") from error

    def _work(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a request that takes a while and whose response holds no data."""
        try:
            self._with_retries(lambda: self._request("POST", path, body, _ADAPTER_SECONDS))
        except InvalidResponse as error:
            raise TrainingError(
                f"the vLLM server at {self.url} answers {path} in a way that cannot be used: "
                f"{error}",
                error.hint,
            ) from error

    def _with_retries(self, once: Callable[[], T], connections: bool = True) -> T:
        """Call `once` until it succeeds, a bounded number of times.

        Args:
            once: sends one request.
            connections: True if a failed connection is worth another try.
        """
        # Several waiting programs should not ask at the same moments. Rollouts have own seeds.
        jitter = random.Random()
        for tried in range(1, TRIES + 1):
            try:
                return once()
            except ServerUnavailable as error:
                failed = error.status is None
                lost = failed and (self._own or not connections or self.hands_over(error))
                if error.late or lost or self._transport.ended.is_set():
                    raise
                if tried == TRIES:
                    raise ServerUnavailable(
                        f"{error} (asked {TRIES} times)", error.status
                    ) from error
                self._tell_once(error)
                wait = _FIRST_WAIT * 2 ** (tried - 1) * (1 + jitter.random() / 4)
                wait = min(max(wait, error.retry_after), _LONGEST_WAIT)
                self._clock.wait(wait, self._transport.ended)
        raise AssertionError("unreachable")

    def _tell_once(self, error: ServerUnavailable) -> None:
        if error.status not in self._told:
            self._told.add(error.status)
            self._tell(f"the vLLM server at {self.url} is in trouble ({error}); asking again")

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
        most_bytes: int = _SHORT_BYTES,
    ) -> Response:
        """Send one request.

        Returns:
            The response, whose HTTP status is 200.

        Raises:
            ServerUnavailable: there is no response, or a temporary failure.
            RequestRefused: any other status.
            InvalidResponse: the response is too long.
        """
        sent = None if body is None else json.dumps(body).encode()
        try:
            answer = self._transport.call(method, path, sent, seconds or _QUICK_SECONDS, most_bytes)
        except NoResponse as error:
            raise ServerUnavailable(str(error), late=error.late) from error
        except ResponseTooLarge as error:
            raise InvalidResponse(f"it is longer than {most_bytes} bytes") from error
        if self._key is not None:  # no error may show it, even if the server echoes it
            answer = answer.without(self._key)
        if answer.status == 200:
            return answer
        if 300 <= answer.status < 400:
            where = responses.shown(answer.location) or "nowhere"
            raise RequestRefused(answer.status, f"redirects to {where} (HTTP {answer.status})")
        said = responses.message(answer.body)
        if answer.status in _TEMPORARY:
            text = f"HTTP {answer.status}: {said}"
            raise ServerUnavailable(text, answer.status, retry_after=answer.retry_after)
        raise RequestRefused(answer.status, said or f"HTTP {answer.status}")
