"""What is asked of a vLLM server, over HTTP, with nothing but the standard library.

Prompts go as token ids and completions come back as token ids: text is never tokenised again. Each
completion is a request of its own, with its own seed, so a rollout's numbers do not depend on which
others are under way; the server batches them as it likes.

A server in trouble is asked again after waits that double, a bounded number of times; what it
answers is checked (`backends.vllm.answers`). Every error names the server and what it said.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from packaging.version import InvalidVersion, Version

from backends.interface import Rollout, Sampling
from backends.vllm import answers
from backends.vllm.answers import OLDEST, Asked, Lacking, Unusable
from backends.vllm.transport import Answer, Clock, NoAnswer, Oversized, Transport
from backends.vllm.trouble import Refused, ServerGone, explained
from opsd_cli.errors import TrainingError, UsageError

#: Seconds for what a server answers from memory, for what a run can do without, for what the server
#: must load, and for a parting word.
_QUICK_SECONDS = 10.0
_ASIDE_SECONDS = 10.0
_ADAPTER_SECONDS = 300.0
PARTING_SECONDS = 2.0
_SHORT_BYTES = 2**22
#: How often a server in trouble is asked in all, and the first and the longest wait in between.
TRIES = 7
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
#: Trouble that may pass: too many requests, a server or a proxy before it that has broken down.
_PASSING = frozenset({429, 500, 502, 503, 504})
#: Seeds are signed numbers of 64 bits there.
_SEED_MASK = 2**63 - 1

T = TypeVar("T")


class Client:
    """A server at an address. Safe to use from several threads.

    Args:
        request_seconds: how long one completion may take.
        key: its API key, where it has one; no error and no log shows it.
        own: whether we started it. A connection that fails then means that it died, which is not
            waited for.
        tell: is told that a server in trouble is asked again.
    """

    def __init__(
        self,
        url: str,
        request_seconds: float,
        key: str | None = None,
        own: bool = False,
        clock: Clock | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url
        self.request_seconds = request_seconds
        self._key = key
        self._own = own
        self._clock = clock or Clock()
        self._tell = tell
        self._transport = Transport(url, key, self._clock)
        self._told: set[int | None] = set()

    def afresh(self) -> Client:
        """The same server; `hang_up` of one does not end the other's requests."""
        other = Client(
            self.url, self.request_seconds, self._key, self._own, self._clock, self._tell
        )
        other._told = self._told
        return other

    def hang_up(self) -> None:
        """End every request that is under way, and let no other begin; the server then stops
        working on them."""
        self._transport.hang_up()

    # -- what it is ----------------------------------------------------------------------------

    def alive(self) -> bool:
        """Whether it says that it is well."""
        try:
            self._once("GET", "/health")
        except (ServerGone, Refused, Unusable):
            return False
        return True

    def require_alive(self) -> None:
        """Wait for a server that says it will soon be well.

        Raises:
            UsageError: there is none, or none that gets well.
        """
        try:
            self._patiently(lambda: self._once("GET", "/health"), connections=False)
        except (ServerGone, Refused, Unusable) as error:
            raise UsageError(
                f"no vLLM server answers at {self.url}: {error}",
                "start one with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or "
                "leave rollouts.vllm.url unset to have one started",
            ) from error

    def require_new_enough(self) -> str:
        """Its version; raises `UsageError` for one that is too old."""
        version = self._known("GET", "/version", answers.version)
        try:
            release = Version(version).release
        except InvalidVersion:  # of a build of somebody's own; what it lacks will show
            return version
        if release < OLDEST:
            raise UsageError(
                f"vLLM {version} at {self.url} is too old",
                f"at least {'.'.join(map(str, OLDEST))} is needed, for token ids in its answers",
            )
        return version

    def models(self) -> list[Mapping[str, Any]]:
        """The models, not adapters, that it serves: `id` is the name, `root` where it is from."""
        return self._known("GET", "/v1/models", answers.served_models)

    def replicas(self) -> int:
        """How many data-parallel replicas answer at the address, as far as it tells."""
        known = [1]
        try:
            body = self._once("GET", "/metrics", seconds=_ASIDE_SECONDS).body
            known.append(answers.replicas_in_metrics(body.decode(errors="replace")))
        except (ServerGone, Refused, Unusable):
            pass  # it need not tell
        try:
            info = self._once("GET", "/server_info?config_format=json", seconds=_ASIDE_SECONDS)
            known.append(answers.replicas_in_config(answers.parsed(info.body)) or 1)
        except (ServerGone, Refused, Unusable):
            pass
        return max(known)

    # -- its adapters and memory ---------------------------------------------------------------

    def load_adapter(self, name: str, folder: str) -> None:
        """Make an adapter's folder, which the server must see under the same path, a model."""
        body = {"lora_name": name, "lora_path": folder}
        self._work("/v1/load_lora_adapter", body)

    def unload_adapter(self, name: str, seconds: float | None = None) -> None:
        """Forget it; asked once."""
        body = {"lora_name": name}
        self._once("POST", "/v1/unload_lora_adapter", body, seconds or _ASIDE_SECONDS)

    def sleep(self) -> None:
        """Give up the GPU's memory; weights wait in the machine's own."""
        self._work("/sleep?level=1", {})

    def wake(self) -> None:
        """Take it back."""
        self._work("/wake_up", {})

    # -- completions ---------------------------------------------------------------------------

    def complete(self, asked: Asked, sampling: Sampling) -> Rollout:
        """One completion, with the log-probabilities it was drawn with.

        Raises:
            ServerGone: the server does not answer.
            Refused: it does not take the request.
            TrainingError: its answer is not usable.
            UsageError: it never will be.
        """
        request = asked.request
        body = {
            "model": asked.model,
            "prompt": list(request.prompt_ids),
            "max_tokens": asked.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            # What is left out would be the model's generation_config.json's.
            "repetition_penalty": 1.0,
            "seed": request.seed & _SEED_MASK,
            "ignore_eos": True,  # the stop tokens are those of this run
            "stop_token_ids": sorted(asked.stop_ids),
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }

        def once() -> Rollout:
            answer = self._once(
                "POST", "/v1/completions", body, self.request_seconds, asked.most_bytes
            )
            return answers.completion(answers.parsed(answer.body), asked)

        try:
            return self._patiently(once)
        except Lacking as error:
            raise UsageError(f"the vLLM at {self.url} {error}", error.hint) from error
        except Unusable as error:
            raise TrainingError(
                f"the vLLM server at {self.url} gave an answer for problem "
                f"{request.problem_id!r} that cannot be used: {error}",
                error.hint,
            ) from error

    # -- asking --------------------------------------------------------------------------------

    def explained(self, error: ServerGone | Refused, what: str) -> UsageError | TrainingError:
        """An error for the user that says what the server was to do and what it said."""
        return explained(error, self.url, self._key is not None, what)

    def _known(self, method: str, path: str, read: Callable[[Any], T]) -> T:
        """What a quick question is answered with, read by `read`."""

        def once() -> T:
            return read(answers.parsed(self._once(method, path).body))

        try:
            return self._patiently(once)
        except Unusable as error:
            raise UsageError(
                f"the vLLM server at {self.url} answers {path} in a way that cannot be used: "
                f"{error}",
                error.hint,
            ) from error
        except (ServerGone, Refused) as error:
            raise self.explained(error, f"answer {path}") from error

    def _work(self, path: str, body: Mapping[str, Any]) -> None:
        """Ask for something that takes a while and answers in words."""
        try:
            self._patiently(lambda: self._once("POST", path, body, _ADAPTER_SECONDS))
        except Unusable as error:
            raise TrainingError(
                f"the vLLM server at {self.url} answers {path} in a way that cannot be used: "
                f"{error}",
                error.hint,
            ) from error

    def _patiently(self, once: Callable[[], T], connections: bool = True) -> T:
        """Ask until there is an answer, a bounded number of times.

        Args:
            connections: whether a connection that fails is worth another try.
        """
        # Of no effect on what is drawn: several programs that wait should not wait in step.
        jitter = random.Random()
        for tried in range(1, TRIES + 1):
            try:
                return once()
            except ServerGone as error:
                failed = error.status is None
                if error.late or (failed and (self._own or not connections)):
                    raise
                if self._transport.ended.is_set():
                    raise
                if tried == TRIES:
                    raise ServerGone(f"{error} (asked {TRIES} times)", error.status) from error
                self._tell_once(error)
                wait = _FIRST_WAIT * 2 ** (tried - 1) * (1 + jitter.random() / 4)
                wait = min(max(wait, error.retry_after), _LONGEST_WAIT)
                self._clock.wait(wait, self._transport.ended)
        raise AssertionError("unreachable")

    def _tell_once(self, error: ServerGone) -> None:
        if error.status not in self._told:
            self._told.add(error.status)
            self._tell(f"the vLLM server at {self.url} is in trouble ({error}); asking again")

    def _once(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
        most_bytes: int = _SHORT_BYTES,
    ) -> Answer:
        """Ask once; gives the answer where it is HTTP's 200."""
        sent = None if body is None else json.dumps(body).encode()
        try:
            answer = self._transport.call(method, path, sent, seconds or _QUICK_SECONDS, most_bytes)
        except NoAnswer as error:
            raise ServerGone(str(error), late=error.late) from error
        except Oversized as error:
            raise Unusable(f"it is longer than {most_bytes} bytes") from error
        if self._key is not None:  # should the server repeat it, no error may
            answer = answer.without(self._key)
        if answer.status == 200:
            return answer
        if 300 <= answer.status < 400:
            where = answers.shown(answer.location) or "nowhere"
            raise Refused(answer.status, f"redirects to {where} (HTTP {answer.status})")
        said = answers.message(answer.body)
        if answer.status in _PASSING:
            text = f"HTTP {answer.status}: {said}"
            raise ServerGone(text, answer.status, retry_after=answer.retry_after)
        raise Refused(answer.status, said or f"HTTP {answer.status}")
