"""What a vLLM server may answer, and nothing else.

A rollout that is learnt from must be one that the sampler asked for could have drawn. Whatever is
not, is refused here with what is wrong about it: a completion that is too long, token ids that the
model does not have, log-probabilities that are none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.interface import FinishReason, Rollout, RolloutRequest

#: The first release that gives back token ids.
OLDEST = (0, 10, 2)
#: Rounding may leave the logarithm of a probability of 1 this far above 0.
ROUNDING = 1e-3
#: What vLLM writes for a probability of 0, which no token that was drawn has.
_NEVER = -9000.0
_PROCESSED = "start it with --logprobs-mode processed_logprobs"


class Unusable(Exception):
    """An answer that cannot be right; `hint` says what may help."""

    def __init__(self, message: str, hint: str = "look at the server's log") -> None:
        super().__init__(message)
        self.hint = hint


class Lacking(Unusable):
    """The server is not one that can be used, however often it is asked."""


@dataclass(frozen=True)
class Asked:
    """What a completion was asked for with.

    Attributes:
        limit: the most tokens it may have.
        stop_ids: token ids that end it.
        vocabulary: one more than the highest token id; None where it is not known.
    """

    model: str
    request: RolloutRequest
    limit: int
    stop_ids: frozenset[int]
    vocabulary: int | None = None

    @property
    def most_bytes(self) -> int:
        """How long its answer can be: a token's text, spelled in escapes several times over, its
        id and its log-probability take a few hundred bytes; a prompt's id, which comes back, ten.
        """
        return 2**16 + 1024 * self.limit + 16 * len(self.request.prompt_ids)


def parsed(body: bytes) -> Any:
    """JSON of a body that may be anything.

    Raises:
        Unusable: it is none.
    """
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Unusable("it is not UTF-8 text", _PLAIN) from error
    except RecursionError as error:
        raise Unusable("its JSON is nested too deeply", _PLAIN) from error
    except ValueError as error:  # also of a number with more digits than Python reads
        raise Unusable("it is not JSON", _PLAIN) from error


_PLAIN = "see that the address is a vLLM server's, and that nothing in between rewrites its answers"


def completion(answer: Any, asked: Asked) -> Rollout:
    """The one completion in the answer of /v1/completions.

    Raises:
        Unusable: it is not one that could have been drawn as asked.
    """
    body = _mapping(answer, "the answer")
    model = body.get("model")
    if isinstance(model, str) and model != asked.model:
        raise Unusable(
            f"it is by the model {shown(model)}, not by {asked.model}",
            "let no other program load or rename the server's models",
        )
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise Unusable("it has no list of choices")
    if len(choices) != 1:
        raise Unusable(f"it has {len(choices)} completions where one was asked for")
    choice = _mapping(choices[0], "the completion")
    _require_own_prompt(choice, asked)
    ids = _token_ids(choice, asked)
    log_probs = _log_probs(choice, len(ids))
    return Rollout(asked.request, ids, log_probs, _finish_reason(choice, ids, asked))


def _require_own_prompt(choice: Mapping[str, Any], asked: Asked) -> None:
    """A prompt that comes back must be the one that was sent."""
    prompt = choice.get("prompt_token_ids")
    if prompt is not None and prompt != list(asked.request.prompt_ids):
        raise Unusable("it belongs to another prompt")


def _token_ids(choice: Mapping[str, Any], asked: Asked) -> tuple[int, ...]:
    ids = choice.get("token_ids")
    if ids is None:
        raise Lacking("gives no token ids back", f"at least {'.'.join(map(str, OLDEST))} is needed")
    if not isinstance(ids, list) or any(type(token) is not int for token in ids):
        raise Unusable("its token_ids are not a list of whole numbers")
    if not ids:
        raise Unusable("it is an empty completion")
    if len(ids) > asked.limit:
        raise Unusable(f"it has {len(ids)} tokens where at most {asked.limit} were asked for")
    for token in ids:
        if token < 0 or (asked.vocabulary is not None and token >= asked.vocabulary):
            known = "" if asked.vocabulary is None else f" of a vocabulary of {asked.vocabulary}"
            raise Unusable(
                f"token id {shown(token)} is none{known}",
                "compare the server's model and tokenizer with this run's",
            )
    for place, token in enumerate(ids[:-1]):
        if token in asked.stop_ids:
            raise Unusable(f"it goes on after its stop token {token} at {place + 1}")
    return tuple(ids)


def _log_probs(choice: Mapping[str, Any], count: int) -> np.ndarray:
    found = choice.get("logprobs")
    numbers = found.get("token_logprobs") if isinstance(found, dict) else None
    if not isinstance(numbers, list) or len(numbers) != count:
        have = len(numbers) if isinstance(numbers, list) else "no"
        raise Unusable(f"it has {have} log-probabilities for {count} tokens", _PROCESSED)
    for number in numbers:
        if type(number) not in (int, float):
            raise Unusable(f"a log-probability is {shown(number)}, not a number", _PROCESSED)
        # In this order: a whole number may be too large to be a float at all.
        if number <= _NEVER or number > ROUNDING or not math.isfinite(number):
            raise Unusable(
                f"a log-probability is {shown(number)}, which no token drawn has", _PROCESSED
            )
    return np.asarray(numbers, np.float32)


def _finish_reason(choice: Mapping[str, Any], ids: tuple[int, ...], asked: Asked) -> FinishReason:
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise Unusable(f"its finish_reason is {shown(reason)}, neither stop nor length")
    if ids[-1] in asked.stop_ids:
        return "stop"
    if reason == "stop":
        raise Unusable(
            f"it stopped at token {ids[-1]}, which is no stop token of this run",
            "compare the server's generation_config.json with this run's model",
        )
    if len(ids) < asked.limit:
        raise Unusable(
            f"it was cut off at {len(ids)} of {asked.limit} tokens",
            "compare its --max-model-len and --override-generation-config with this run's "
            "sampling.max_new_tokens",
        )
    return "length"


def served_models(answer: Any) -> list[Mapping[str, Any]]:
    """The models, not the adapters, that /v1/models lists, each with its id.

    Raises:
        Unusable: it lists none.
    """
    listed = _mapping(answer, "the list of models").get("data")
    if not isinstance(listed, list):
        raise Unusable("it has no list of models", _PLAIN)
    models: list[Mapping[str, Any]] = [
        model
        for model in listed
        if isinstance(model, dict) and isinstance(model.get("id"), str) and not model.get("parent")
    ]
    if not models:
        raise Unusable("it lists no model", _PLAIN)
    return models


def version(answer: Any) -> str:
    """What /version says.

    Raises:
        Unusable: nothing.
    """
    found = _mapping(answer, "the version").get("version")
    if not isinstance(found, str) or not found or len(found) > 100 or not found.isprintable():
        raise Unusable("it does not say its version", _PLAIN)
    return found


def replicas_in_config(answer: Any) -> int | None:
    """How many data-parallel replicas /server_info says there are; None where it does not."""
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
    """How many engines, by their label, the lines of /metrics are about."""
    engines = set()
    for line in text.splitlines():
        if line.startswith("vllm:"):
            engines.add(line.partition('engine="')[2].partition('"')[0])
    return len(engines - {""})


def message(body: bytes) -> str:
    """What an error's body says, in one line."""
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
    """Something of another program's for a person's screen: one short line, no control codes."""
    text = value if isinstance(value, str) else repr(value) if _is_scalar(value) else "no scalar"
    plain = "".join(letter if letter.isprintable() else " " for letter in text[:4000])
    words = " ".join(plain.split())
    return words if len(words) <= 300 else f"{words[:299]}…"


def _is_scalar(value: Any) -> bool:
    # A whole number of thousands of digits has no text form.
    return (
        value is None
        or isinstance(value, bool | float)
        or (isinstance(value, int) and value.bit_length() <= 1000)
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Unusable(f"{what} is not a JSON object", _PLAIN)
    return value
