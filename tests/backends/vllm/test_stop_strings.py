"""Stop strings of completions that a vLLM server samples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opsd_cli.errors import TrainingError
from tests.support.fakes import FakePolicy
from tests.support.vllm_runs import EXPECTED, REQUESTS, SAMPLING, Served


def stop_of(name: str) -> str:
    """The text of the first two tokens that the server samples for a request."""
    return FakePolicy.tokenizer.decode(EXPECTED[name][:2])


def test_a_request_holds_the_stop_strings_and_its_completion_ends_there(served: Served) -> None:
    server, policy = served()
    long = next(name for name, ids in EXPECTED.items() if len(ids) > 3)
    stop = stop_of(long)
    rollouts = list(policy.generate(REQUESTS, replace(SAMPLING, stop=(stop,))))
    asked = [body for path, body in server.calls if path == "/v1/completions"]
    assert all(body["stop"] == [stop] for body in asked)
    for rollout in rollouts:
        sampled = EXPECTED[rollout.request.problem_id]
        text = FakePolicy.tokenizer.decode(sampled)
        if stop in text:
            assert rollout.finish_reason == "stop"
            assert stop in FakePolicy.tokenizer.decode(rollout.completion_ids)
            assert stop not in FakePolicy.tokenizer.decode(rollout.completion_ids[:-1])
        else:
            assert rollout.completion_ids == sampled
    found = next(r for r in rollouts if r.request.problem_id == long)
    assert found.completion_ids == EXPECTED[long][:2]


def test_a_server_that_ignores_stop_strings_is_an_error(served: Served) -> None:
    _, policy = served(ignores_stop=True)
    long = next(name for name, ids in EXPECTED.items() if len(ids) > 3)
    with pytest.raises(TrainingError, match="goes on after a stop string"):
        list(policy.generate(REQUESTS, replace(SAMPLING, stop=(stop_of(long),))))
