"""Servers at addresses whose connection breaks: others take the requests over without waiting."""

from __future__ import annotations

import threading

import pytest

from backends.vllm.policy import VllmPolicy
from opsd_cli.errors import TrainingError
from tests.support.fake_vllm import FakeVllm
from tests.support.vllm_runs import (
    EXPECTED,
    REQUESTS,
    SAMPLING,
    InstantClock,
    Several,
    end,
    sampled,
    versions_asked,
    wait_until,
)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The waiting times between a request and its repetition: thread and seconds.

    Requests wait side by side, each in a thread of its own.
    """
    found: list[tuple[int, float]] = []

    def wait(self: InstantClock, seconds: float, ended: threading.Event) -> None:
        found.append((threading.get_ident(), seconds))

    monkeypatch.setattr(InstantClock, "wait", wait)
    return found


def sampled_with_a_loss(servers: list[FakeVllm], policy: VllmPolicy, told: list[str]) -> None:
    """Sample while the second server, if it is used, dies at its third request."""
    lost = sum("go on" in line for line in told)
    servers[1].faults.dies_after = 2
    servers[0].answers.clear()  # the other one gets a third request
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    if policy._pool.replicas[1].may_return:
        wait_until(lambda: sum("go on" in line for line in told) > lost)
    servers[0].answers.set()
    assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED


def test_requests_of_a_vllm_server_that_hangs_up_go_to_the_others_at_once(
    several: Several, waits: list[tuple[int, float]]
) -> None:
    servers, policy, told = several({}, {"dies_after": 0}, assignments=("rollouts.batch_size=9",))
    servers[0].answers.clear()  # it gets its requests before any has ended
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    wait_until(lambda: any("go on" in line for line in told))
    servers[0].answers.set()
    assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED
    assert waits == []
    assert 1 <= len(versions_asked(servers[1])) <= 5  # none was asked twice
    assert sum("go on" in line for line in told) == 1


def test_a_vllm_server_that_is_gone_between_two_steps_is_not_waited_for(
    several: Several, waits: list[tuple[int, float]]
) -> None:
    servers, policy, told = several({}, {})
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED
    end(servers[0])
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED
    assert waits == []
    assert sum("go on" in line for line in told) == 1


def test_the_last_vllm_server_is_asked_again_for_a_while(
    several: Several, waits: list[tuple[int, float]]
) -> None:
    servers, policy, _ = several({}, {})
    assert sampled(policy) == EXPECTED
    for server in servers:
        end(server)
    with pytest.raises(TrainingError, match="does not answer"):
        sampled(policy)
    by_request = [sum(s for t, s in waits if t == thread) for thread in {t for t, _ in waits}]
    assert 31 < max(by_request) < 40  # docs/scale.md has these numbers


def test_a_vllm_server_that_completes_rollouts_may_return_as_often_as_it_is_lost(
    several: Several,
) -> None:
    servers, policy, told = several({}, {})
    for _ in range(6):
        sampled_with_a_loss(servers, policy, told)
    assert sum("is back" in line for line in told) == 5
    policy._pool.replicas[1].late = True  # one that holds requests up may not
    for _ in range(5):
        sampled_with_a_loss(servers, policy, told)
    assert sum("is back" in line for line in told) == 5 + 3
