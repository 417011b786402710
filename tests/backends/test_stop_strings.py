"""Conformance: a completion ends with the token that completes a stop string."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.interface import Rollout, RolloutRequest, Sampling
from backends.shared.stop_strings import StopStrings
from opsd_cli.prompts.rendering import before_stop, completion_text
from tests.support.backend_fixtures import Load
from tests.support.tiny_models import FAMILIES

REQUESTS = [RolloutRequest(f"p{n}", n, (5, 6, 7 + n % 4), seed=n) for n in range(10)]
SAMPLING = Sampling(temperature=1.3, max_new_tokens=14)


def by_id(rollouts: list[Rollout]) -> dict[str, Rollout]:
    return {rollout.request.problem_id: rollout for rollout in rollouts}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stop_string_ends_a_completion_at_any_border_of_tokens(load: Load, family: str) -> None:
    policy = load(family, rollouts={"batch_size": 4})
    decode = policy.tokenizer.decode
    free = by_id(list(policy.generate(REQUESTS, SAMPLING)))
    longest = max(free.values(), key=lambda rollout: len(rollout.completion_ids))
    text = decode(longest.completion_ids)
    # Two characters from the middle, of two tokens; and one that no completion has.
    stop = (text[4:6], "no such text at all")
    found = by_id(list(policy.generate(REQUESTS, replace(SAMPLING, stop=stop))))
    ended = 0
    for name, rollout in found.items():
        whole = free[name].completion_ids
        ends = [n for n in range(1, len(whole) + 1) if stop[0] in decode(whole[:n])]
        ids = whole[: ends[0]] if ends else whole
        ended += bool(ends)
        assert rollout.completion_ids == ids  # sampled tokens, those of the stop string included
        np.testing.assert_allclose(rollout.log_probs, free[name].log_probs[: len(ids)], atol=1e-4)
        assert rollout.finish_reason == ("stop" if ends else free[name].finish_reason)
        cut = completion_text(rollout.completion_ids, policy.tokenizer, policy.stop_ids, stop)
        assert stop[0] not in cut
    assert ended


class Bytes:
    """A tokenizer whose tokens are bytes."""

    control_tokens = ()
    end_of_turn = None
    has_chat_template = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def render_chat(self, *_: object, **__: object) -> str:
        return ""


@pytest.mark.parametrize("stop", ["\n\n", "é", "問題", "Q", "\n\nQuestion: 問"])
def test_stop_strings_of_several_bytes_are_found_when_complete(stop: str) -> None:
    tokenizer = Bytes()
    ids = tokenizer.encode("Größe 5, 答え\n" * 20 + "." + stop + " and more")
    strings = StopStrings((stop, "absent"), tokenizer)
    first = next(n for n in range(1, len(ids) + 1) if strings.end(ids[:n]))
    assert tokenizer.decode(ids[:first]).endswith("." + stop)


@pytest.mark.parametrize(
    ("text", "stop", "before"),
    [
        ("5\n\nQuestion: 6", ("Question:", "\n\n"), "5"),
        ("5", ("x",), "5"),
        ("5", (), "5"),
        ("xx5", ("x",), ""),
    ],
)
def test_text_ends_before_the_first_stop_string(
    text: str, stop: tuple[str, ...], before: str
) -> None:
    assert before_stop(text, stop) == before
