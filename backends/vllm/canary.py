"""The canary: a fixed text whose log-probabilities show which weights a server answers with.

Several servers must answer with the same weights, those of the adapter that was just loaded. Each
server is therefore asked, before it samples, for the log-probabilities of one fixed text
(`prompt_logprobs`, nats, temperature 1, no filters): once with the base model, and after each load
with the adapter. What is checked, and what it can detect:

- The request names the adapter, and vLLM refuses a name that it has not loaded: a server without
  the adapter is noticed whatever the adapter's effect is. The name holds the version.
- The servers' answers for the base model must agree: other weights, or another quantisation, are
  noticed.
- The servers' answers for the adapter must agree within `TOLERANCE`, or three times their
  difference for the base if that is more. A server that goes on with other weights under the same
  name (the base, or an earlier version) is noticed if the two are further apart than that.
- The trainer scores the same text. If the adapter changes the trainer's answer by more than three
  times the difference between server and trainer for the base, the server's own change must be the
  trainer's, at least by half. This notices a server that answers with the base even if all do.

The last two cannot notice weights whose effect is below the rounding of server and trainer: with
bfloat16 about 0.02 nats a token, so the first steps of a run, and one single step's change, pass
unproven. With float32 a change of 0.001 nats is enough. A load balancer that sends the canary to a
server with the adapter, and other requests to one without, is noticed by the refused name alone.

The canary's tokens are in no ledger: they are some 50 a load, and no rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from backends.interface import Policy
from backends.vllm.replica import AdapterLost, Replica
from backends.vllm.server_errors import RequestRefused
from opsd_cli.errors import TrainingError, UsageError

TEXT = (
    "What is 12 + 30 - 7? Think step by step. First 12 + 30 = 42. Then 42 - 7 = 35. So the "
    "answer is 35."
)
#: Tokens of the text at most, and the share of them that only stands before the scored ones.
_LENGTH, _PROMPT_SHARE = 64, 0.25
#: Nats a token, mean: by which two servers may differ with an adapter, and with the base model.
TOLERANCE, BASE_TOLERANCE = 0.02, 0.1
#: Nats a token: the least effect of an adapter that counts as measured, and the difference between
#: server and trainer where it cannot be measured (the run began from an adapter).
_LEAST_EFFECT, _ASSUMED_DIFFERENCE = 1e-3, 0.02
_MARGIN = 3.0


class Canary:
    """The trainer's log-probabilities of the fixed text, and the comparison with the servers'.

    Args:
        policy: the trainer.
        has_base: True if the trainer's initial weights are the base model's.
    """

    def __init__(self, policy: Policy, has_base: bool) -> None:
        self._policy = policy
        self._has_base = has_base
        ids = tuple(policy.tokenizer.encode(TEXT)[:_LENGTH])
        cut = max(1, int(len(ids) * _PROMPT_SHARE))
        self._prompt, self._completion = ids[:cut], ids[cut:]
        #: The trainer's answers; N is the number of scored tokens.
        self._base_N: np.ndarray | None = None
        self._adapter: tuple[str, np.ndarray] | None = None

    def knows(self, name: str) -> bool:
        """True if `note` has scored the weights of this adapter."""
        return self._adapter is not None and self._adapter[0] == name

    def note(self, name: str) -> None:
        """Score the text with the trainer's current weights, which this adapter's files hold.

        Called by the thread that trains: the weights must not change meanwhile.
        """
        pair = [(self._prompt, self._completion)]
        if self._has_base and self._base_N is None:
            self._base_N = self._policy.score(pair, "teacher", "initial")[0]
        self._adapter = name, self._policy.score(pair)[0]

    def ask(self, replica: Replica, adapter: str | None) -> None:
        """Have a server answer with the base model and the adapter, unless it has.

        Raises:
            AdapterLost: it does not have the adapter.
            ServerUnavailable: it does not answer.
            UsageError, TrainingError: it refuses the text, or its answer cannot be used.
        """
        if replica.base_N is None:
            replica.base_N = self._answer(replica, replica.base)
        if adapter is not None and replica.answer_N is None:
            try:
                replica.answer_N = self._answer(replica, adapter)
            except RequestRefused as error:
                if error.status == 404:
                    raise AdapterLost(str(error)) from error
                raise replica.client.user_error(error, "score a text") from error

    def _answer(self, replica: Replica, model: str) -> np.ndarray:
        scored_L = replica.client.prompt_log_probs(model, self._prompt + self._completion)
        return scored_L[-len(self._completion) :]

    def compare(self, replicas: Sequence[Replica], adapter: str | None) -> None:
        """Check the answers of servers that `ask` has asked.

        Raises:
            UsageError: they serve different models.
            TrainingError: one of them does not answer with the adapter's weights.
        """
        differences = [0.0]
        for one, other in combinations(replicas, 2):
            apart = _gap(one.base_N, other.base_N)
            differences.append(apart)
            if apart > BASE_TOLERANCE:
                raise UsageError(
                    f"the vLLM servers at {one.client.url} and {other.client.url} answer "
                    f"differently for the base model: {apart:.2g} nats a token apart on a fixed "
                    f"text, at most {BASE_TOLERANCE} is allowed",
                    "start them with the same model, revision, dtype and quantization",
                )
        if adapter is None:
            return
        for replica in replicas:
            self._require_effect(replica, adapter)
        self._require_agreement(replicas, max(TOLERANCE, _MARGIN * max(differences)))

    def _require_effect(self, replica: Replica, adapter: str) -> None:
        """Raise `TrainingError` if a server lacks the adapter's effect, where it is measurable."""
        if self._adapter is None or self._adapter[0] != adapter:
            return
        assert replica.base_N is not None and replica.answer_N is not None
        base_N, apart = replica.base_N, _ASSUMED_DIFFERENCE
        if self._base_N is not None:
            base_N, apart = self._base_N, _gap(replica.base_N, self._base_N)
        effect_N = self._adapter[1] - base_N
        if float(np.abs(effect_N).mean()) < max(_LEAST_EFFECT, _MARGIN * apart):
            return
        change_N = replica.answer_N - replica.base_N
        share = float(change_N @ effect_N / (effect_N @ effect_N))
        # Not loaded again: with several servers behind the address a later load would reach
        # another one, and the check might pass by chance.
        if share < 0.5:
            raise TrainingError(
                f"the vLLM server at {replica.client.url} has loaded the adapter {adapter} and "
                f"does not answer with it: it shows {max(share, 0.0):.0%} of the adapter's effect "
                "on a fixed text",
                "one address must be one server: an adapter that is loaded reaches only one of "
                "several behind it; give the address of each in rollouts.vllm.url",
            )

    def _require_agreement(self, replicas: Sequence[Replica], tolerance: float) -> None:
        """Raise `TrainingError` if two servers answer differently for the adapter."""
        pairs = [
            (_gap(one.answer_N, other.answer_N), one, other)
            for one, other in combinations(replicas, 2)
        ]
        apart, one, other = max(pairs, key=lambda pair: pair[0], default=(0.0, None, None))
        if one is None or other is None or apart <= tolerance:
            return
        middle_N = np.median([r.answer_N for r in replicas if r.answer_N is not None], axis=0)
        whose = "the other servers"
        if len(replicas) == 2 and self._adapter is not None:
            middle_N, whose = self._adapter[1], "the trainer"
        far = max((one, other), key=lambda replica: _gap(replica.answer_N, middle_N))
        raise TrainingError(
            f"the vLLM servers at {one.client.url} and {other.client.url} answer differently for "
            f"the same adapter: {apart:.2g} nats a token apart on a fixed text, at most "
            f"{tolerance:.2g} is allowed",
            f"start the one at {far.client.url} again: its answer is further from that of {whose}",
        )


def _gap(one_N: np.ndarray | None, other_N: np.ndarray | None) -> float:
    """Mean absolute difference of two answers, nats a token."""
    assert one_N is not None and other_N is not None
    return float(np.abs(one_N - other_N).mean())
