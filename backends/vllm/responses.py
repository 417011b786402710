"""Parsing and validation of a vLLM server's responses.

A rollout is used for training only if the requested sampler could have produced it. Everything else
is refused here with the reason: a completion that is too long, token ids outside the vocabulary,
log-probabilities that are not numbers or are above 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.interface import FinishReason, Rollout, RolloutRequest
from backends.shared.stop_strings import StopStrings

#: The first release of vLLM that returns token ids.
OLDEST = (0, 10, 2)
#: Nats by which rounding may leave the log-probability of a certain token above 0.
ROUNDING = 1e-3
#: Nats: vLLM writes about -9999 for a probability of 0, which no sampled token has.
_NEVER = -9000.0
_PROCESSED = "start it with --logprobs-mode processed_logprobs"


class InvalidResponse(Exception):
    """A response that cannot be right; `hint` states what may help."""

    def __init__(self, message: str, hint: str = "look at the server's log") -> None:
        super().__init__(message)
        self.hint = hint


class UnsupportedServer(InvalidResponse):
    """The server lacks a feature that is needed; asking again does not help."""


@dataclass(frozen=True)
class CompletionRequest:
    """One completion to request.

    Attributes:
        model: the server's name of an adapter or of the base model.
        request: prompt, seed and identity of the rollout.
        limit: maximum number of tokens.
        stop_ids: token ids that end the completion.
        vocabulary: one more than the highest token id; None if unknown.
        stop_strings: strings that end the completion.
    """

    model: str
    request: RolloutRequest
    limit: int
    stop_ids: frozenset[int]
    vocabulary: int | None = None
    stop_strings: StopStrings | None = None

    @property
    def most_bytes(self) -> int:
        """Upper bound on the response in bytes: the text of a token, escaped several times over,
        its id and its log-probability take a few hundred; an id of the echoed prompt about ten.
        """
        return 2**16 + 1024 * self.limit + 16 * len(self.request.prompt_ids)


def parsed_json(body: bytes) -> Any:
    """The JSON value in a response's body.

    Raises:
        InvalidResponse: the body is not JSON.
    """
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidResponse("it is not UTF-8 text", _PLAIN) from error
    except RecursionError as error:
        raise InvalidResponse("its JSON is nested too deeply", _PLAIN) from error
    except ValueError as error:  # also numbers with more digits than Python reads
        raise InvalidResponse("it is not JSON", _PLAIN) from error


_PLAIN = "see that the address is a vLLM server's, and that nothing in between rewrites its answers"


def completion(answer: Any, wanted: CompletionRequest) -> Rollout:
    """The single completion in the response of /v1/completions.

    Raises:
        InvalidResponse: the requested sampler could not have produced it.
        UnsupportedServer: the server returns no token ids.
    """
    choice = _only_choice(answer, wanted.model)
    _require_own_prompt(choice, wanted)
    ids = _token_ids(choice, wanted)
    log_probs = _log_probs(choice, len(ids))
    return Rollout(wanted.request, ids, log_probs, _finish_reason(choice, ids, wanted))


def prompt_log_probs(answer: Any, model: str, ids: Sequence[int]) -> np.ndarray:
    """The log-probabilities of a prompt's tokens but the first, nats, float32 [L - 1].

    Args:
        answer: the response of /v1/completions to a request with `prompt_logprobs`.
        model: the name that was asked for.
        ids: the prompt, L tokens.

    Raises:
        InvalidResponse: there is no number for a token.
    """
    listed = _only_choice(answer, model).get("prompt_logprobs")
    if not isinstance(listed, list) or len(listed) != len(ids):
        raise InvalidResponse("it has no prompt_logprobs for each token of the prompt")
    numbers = []
    for token, entry in zip(ids[1:], listed[1:], strict=True):
        found = entry.get(str(token)) if isinstance(entry, dict) else None
        number = found.get("logprob") if isinstance(found, dict) else None
        # NaN fails the comparison.
        if type(number) not in (int, float) or not -1e30 < float(number or 0) <= ROUNDING:
            raise InvalidResponse(f"the log-probability of a prompt's token is {shown(number)}")
        numbers.append(number)
    return np.asarray(numbers, np.float32)


def _only_choice(answer: Any, wanted: str) -> Mapping[str, Any]:
    """The single completion in a response; raises `InvalidResponse` if it is another model's."""
    body = _mapping(answer, "the answer")
    model = body.get("model")
    if isinstance(model, str) and model != wanted:
        raise InvalidResponse(
            f"it is by the model {shown(model)}, not by {wanted}",
            "let no other program load or rename the server's models",
        )
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise InvalidResponse("it has no list of choices")
    if len(choices) != 1:
        raise InvalidResponse(f"it has {len(choices)} completions where one was asked for")
    return _mapping(choices[0], "the completion")


def _require_own_prompt(choice: Mapping[str, Any], wanted: CompletionRequest) -> None:
    """Raise `InvalidResponse` if an echoed prompt is not the one that was sent."""
    prompt = choice.get("prompt_token_ids")
    if prompt is not None and prompt != list(wanted.request.prompt_ids):
        raise InvalidResponse("it belongs to another prompt")


def _token_ids(choice: Mapping[str, Any], wanted: CompletionRequest) -> tuple[int, ...]:
    ids = choice.get("token_ids")
    if ids is None:
        raise UnsupportedServer(
            "gives no token ids back", f"at least {'.'.join(map(str, OLDEST))} is needed"
        )
    if not isinstance(ids, list) or any(type(token) is not int for token in ids):
        raise InvalidResponse("its token_ids are not a list of whole numbers")
    if not ids:
        raise InvalidResponse("it is an empty completion")
    if len(ids) > wanted.limit:
        raise InvalidResponse(
            f"it has {len(ids)} tokens where at most {wanted.limit} were asked for"
        )
    for token in ids:
        if token < 0 or (wanted.vocabulary is not None and token >= wanted.vocabulary):
            known = "" if wanted.vocabulary is None else f" of a vocabulary of {wanted.vocabulary}"
            raise InvalidResponse(
                f"token id {shown(token)} is none{known}",
                "compare the server's model and tokenizer with this run's",
            )
    for place, token in enumerate(ids[:-1]):
        if token in wanted.stop_ids:
            raise InvalidResponse(f"it goes on after its stop token {token} at {place + 1}")
    if wanted.stop_strings is not None and wanted.stop_strings.contained(ids[:-1]):
        raise InvalidResponse(
            "it goes on after a stop string", "see that the server supports `stop`"
        )
    return tuple(ids)


def _log_probs(choice: Mapping[str, Any], count: int) -> np.ndarray:
    found = choice.get("logprobs")
    numbers = found.get("token_logprobs") if isinstance(found, dict) else None
    if not isinstance(numbers, list) or len(numbers) != count:
        have = len(numbers) if isinstance(numbers, list) else "no"
        raise InvalidResponse(f"it has {have} log-probabilities for {count} tokens", _PROCESSED)
    for number in numbers:
        if type(number) not in (int, float):
            raise InvalidResponse(f"a log-probability is {shown(number)}, not a number", _PROCESSED)
        # Compared before `isfinite`: an int may be too large to be converted to a float.
        if number <= _NEVER or number > ROUNDING or not math.isfinite(number):
            raise InvalidResponse(
                f"a log-probability is {shown(number)}, which no token drawn has", _PROCESSED
            )
    return np.asarray(numbers, np.float32)


def _finish_reason(
    choice: Mapping[str, Any], ids: tuple[int, ...], wanted: CompletionRequest
) -> FinishReason:
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise InvalidResponse(f"its finish_reason is {shown(reason)}, neither stop nor length")
    if ids[-1] in wanted.stop_ids:
        return "stop"
    if wanted.stop_strings is not None and wanted.stop_strings.end(ids):
        return "stop"
    if reason == "stop":
        raise InvalidResponse(
            f"it stopped at token {ids[-1]}, which is no stop token of this run",
            "compare the server's generation_config.json with this run's model",
        )
    if len(ids) < wanted.limit:
        raise InvalidResponse(
            f"it was cut off at {len(ids)} of {wanted.limit} tokens",
            "compare its --max-model-len and --override-generation-config with this run's "
            "sampling.max_new_tokens",
        )
    return "length"


def served_models(answer: Any) -> list[Mapping[str, Any]]:
    """The base models in the response of /v1/models, without adapters; each has an `id`.

    Raises:
        InvalidResponse: there is none.
    """
    listed = _mapping(answer, "the list of models").get("data")
    if not isinstance(listed, list):
        raise InvalidResponse("it has no list of models", _PLAIN)
    models: list[Mapping[str, Any]] = [
        model
        for model in listed
        if isinstance(model, dict) and isinstance(model.get("id"), str) and not model.get("parent")
    ]
    if not models:
        raise InvalidResponse("it lists no model", _PLAIN)
    return models


def version(answer: Any) -> str:
    """The version in the response of /version.

    Raises:
        InvalidResponse: there is none.
    """
    found = _mapping(answer, "the version").get("version")
    if not isinstance(found, str) or not found or len(found) > 100 or not found.isprintable():
        raise InvalidResponse("it does not say its version", _PLAIN)
    return found


def replicas_in_config(answer: Any) -> int | None:
    """Number of data-parallel replicas in the response of /server_info; None if it has none."""
    config = answer.get("vllm_config") if isinstance(answer, dict) else None
    if isinstance(config, dict):
        parallel = config.get("parallel_config")
        size = parallel.get("data_parallel_size") if isinstance(parallel, dict) else None
        return size if type(size) is int else None
    if isinstance(config, str):
        found = re.search(r"data_parallel_size=(\d{1,6})", config)
        return int(found[1]) if found else None
    return None


def replicas_in_metrics(text: str) -> int:
    """Number of distinct `engine` labels in the text of /metrics."""
    engines = set()
    for line in text.splitlines():
        if line.startswith("vllm:"):
            engines.add(line.partition('engine="')[2].partition('"')[0])
    return len(engines - {""})


def message(body: bytes) -> str:
    """The message in an error's body, as one line."""
    text: Any = body[: 2**16].decode("utf-8", errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return shown(text)
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return shown(found if isinstance(found, str) else text)


def shown(value: Any) -> str:
    """A value from another program as one short line without control characters."""
    text = value if isinstance(value, str) else repr(value) if _is_scalar(value) else "no scalar"
    plain = "".join(letter if letter.isprintable() else " " for letter in text[:4000])
    words = " ".join(plain.split())
    return words if len(words) <= 300 else f"{words[:299]}…"


def _is_scalar(value: Any) -> bool:
    # Python refuses to write an int of thousands of digits as text.
    return (
        value is None
        or isinstance(value, bool | float)
        or (isinstance(value, int) and value.bit_length() <= 1000)
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    """The value as a JSON object; raises `InvalidResponse` for anything else."""
    if not isinstance(value, dict):
        raise InvalidResponse(f"{what} is not a JSON object", _PLAIN)
    return value
