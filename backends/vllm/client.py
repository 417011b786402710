"""What is asked of a vLLM server, over HTTP, with nothing but the standard library.

Prompts go as token ids and completions come back as token ids: text is never tokenised again. Each
completion is a request of its own, with its own seed, so a rollout's numbers do not depend on which
others are under way; the server batches them as it likes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from backends.interface import FinishReason, Rollout, RolloutRequest, Sampling
from opsd_cli.errors import TrainingError, UsageError

#: The first release that gives back token ids.
OLDEST = (0, 10, 2)
_QUICK_SECONDS = 10.0
_ADAPTER_SECONDS = 300.0
#: Seeds are signed numbers of 64 bits there.
_SEED_MASK = 2**63 - 1


class ServerGone(Exception):
    """The server does not answer, or stopped while it was answering."""


class Refused(Exception):
    """The server answered that it will not; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Client:
    """A server at a URL. Safe to use from several threads: each call has its own connection."""

    url: str
    request_seconds: float
    _open: set[http.client.HTTPConnection] = field(default_factory=set, repr=False, compare=False)

    def alive(self) -> bool:
        """Whether it says that it is well."""
        try:
            self._call("GET", "/health", seconds=_QUICK_SECONDS)
        except (ServerGone, Refused):
            return False
        return True

    def require_new_enough(self) -> str:
        """Its version; raises `UsageError` for one that is too old."""
        version = str(self._call("GET", "/version", seconds=_QUICK_SECONDS)["version"])
        numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
        if numbers and numbers < OLDEST:
            raise UsageError(
                f"vLLM {version} at {self.url} is too old",
                f"at least {'.'.join(map(str, OLDEST))} is needed, for token ids in its answers",
            )
        return version

    def models(self) -> list[str]:
        """The names under which models, not adapters, are served."""
        listed = self._call("GET", "/v1/models", seconds=_QUICK_SECONDS)["data"]
        return [model["id"] for model in listed if not model.get("parent")]

    def load_adapter(self, name: str, folder: str) -> None:
        """Make an adapter's folder, which the server must see under the same path, a model."""
        self._call(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": name, "lora_path": folder},
            _ADAPTER_SECONDS,
        )

    def unload_adapter(self, name: str) -> None:
        """Forget it."""
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _ADAPTER_SECONDS)

    def sleep(self) -> None:
        """Give up the GPU's memory; weights wait in the machine's own."""
        self._call("POST", "/sleep?level=1", {}, _ADAPTER_SECONDS)

    def wake(self) -> None:
        """Take it back."""
        self._call("POST", "/wake_up", {}, _ADAPTER_SECONDS)

    def hang_up(self) -> None:
        """End every call that is under way; the server then stops working on it."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError, AttributeError):  # it has just ended by itself
                connection.sock.shutdown(socket.SHUT_RDWR)

    def complete(
        self, model: str, request: RolloutRequest, sampling: Sampling, stop_ids: frozenset[int]
    ) -> Rollout:
        """One completion, with the log-probabilities it was drawn with.

        Raises:
            ServerGone: the server does not answer.
            Refused: it does not take the request.
            TrainingError: its answer is not usable.
        """
        answer = self._call(
            "POST",
            "/v1/completions",
            {
                "model": model,
                "prompt": list(request.prompt_ids),
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "seed": request.seed & _SEED_MASK,
                "stop_token_ids": sorted(stop_ids),
                "logprobs": 0,
                "return_token_ids": True,
                "skip_special_tokens": False,
            },
            self.request_seconds,
        )
        choice = answer["choices"][0]
        ids = choice.get("token_ids")
        if ids is None:
            raise UsageError(
                f"the vLLM at {self.url} gives no token ids back",
                f"at least {'.'.join(map(str, OLDEST))} is needed",
            )
        log_probs = np.asarray((choice.get("logprobs") or {}).get("token_logprobs"), np.float32)
        if log_probs.shape != (len(ids),) or not np.isfinite(log_probs).all():
            raise TrainingError(
                f"vLLM's log-probabilities of problem {request.problem_id!r} are not one a token",
                "start it with --logprobs-mode processed_logprobs",
            )
        reason: FinishReason = "stop" if choice["finish_reason"] == "stop" else "length"
        return Rollout(request, tuple(ids), log_probs, reason)

    def _call(
        self, method: str, path: str, body: Any = None, seconds: float = _QUICK_SECONDS
    ) -> Any:
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.hostname or "", parts.port, timeout=seconds)
        self._open.add(connection)
        try:
            connection.request(
                method,
                parts.path.rstrip("/") + path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except TimeoutError as error:
            raise ServerGone(f"no answer in {seconds:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerGone(str(error) or type(error).__name__) from error
        finally:
            self._open.discard(connection)
            connection.close()
        if answer.status >= 500:
            raise ServerGone(f"HTTP {answer.status}: {_message(text)}")
        if answer.status >= 400:
            raise Refused(answer.status, _message(text))
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return None  # some calls answer in words


def _message(text: str) -> str:
    """What an error says, in one line."""
    try:
        found = json.loads(text)
        text = str((found.get("error") or found).get("message") or found)
    except (json.JSONDecodeError, AttributeError):
        pass
    return " ".join(text.split())[:300]
