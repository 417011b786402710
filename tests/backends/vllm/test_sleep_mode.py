"""Sleep mode: the server's memory is free while the trainer computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backends.interface import PolicyGradientBatch
from backends.vllm.policy import VllmPolicy
from opsd_cli.errors import UsageError
from tests.support.vllm_runs import EXPECTED, REQUESTS, SAMPLING, Served, sampled


def test_sleep_mode_while_the_trainer_accumulates(served: Served) -> None:
    server, policy = served("rollouts.vllm.sleep=true")
    sampled(policy)
    policy.accumulate(PolicyGradientBatch(()))
    policy.accumulate(PolicyGradientBatch(()))
    assert server.asleep
    assert [path for path, _ in server.calls].count("/sleep?level=1") == 1
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED and not server.asleep


def test_sleep_mode_while_the_trainer_scores_measures_and_generates(served: Served) -> None:
    passes: dict[str, Callable[[VllmPolicy], Any]] = {
        "score": lambda policy: policy.score([((5, 6), (7,))], sampling=SAMPLING),
        "measure": lambda policy: policy.measure(PolicyGradientBatch(())),
        "draw": lambda policy: list(policy.generate(REQUESTS, SAMPLING, "teacher", "ema")),
    }
    for name, own_pass in passes.items():
        server, policy = served("rollouts.vllm.sleep=true")
        own_pass(policy)  # also before anything was drawn
        assert server.asleep, name
        assert sampled(policy) == EXPECTED and not server.asleep
        own_pass(policy)
        assert server.asleep, name
    server, policy = served()
    for own_pass in passes.values():
        own_pass(policy)
    assert not server.asleep  # it was not asked for


def test_sleep_mode_left_on_by_a_killed_run_is_ended(served: Served) -> None:
    server, policy = served("rollouts.vllm.sleep=true")
    server.asleep = True
    assert sampled(policy) == EXPECTED


def test_a_server_without_sleep_mode_is_an_error_with_a_hint(served: Served) -> None:
    _, policy = served("rollouts.vllm.sleep=true", cannot_sleep=True)
    with pytest.raises(UsageError, match="does not go to sleep") as failed:
        policy.score([((5, 6), (7,))])
    assert "--enable-sleep-mode" in failed.value.hint
    assert "VLLM_SERVER_DEV_MODE=1" in failed.value.hint
