"""Several vLLM servers at addresses: adapters, routing, canary, and servers that are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backends.interface import PolicyGradientBatch
from opsd_cli.errors import TrainingError, UsageError
from tests.support.fake_vllm import FakeVllm
from tests.support.vllm_runs import (
    EXPECTED,
    REQUESTS,
    SAMPLING,
    Several,
    end,
    models_asked,
    sampled,
    short,
    versions_asked,
    wait_until,
)


def test_two_vllm_servers_sample_what_one_does(several: Several) -> None:
    servers, policy, told = several({}, {})
    assert sampled(policy) == EXPECTED
    for version in ("v000001", "v000002"):
        policy.apply(0.1)
        for server in servers:
            server.calls.clear()
        assert sampled(policy) == EXPECTED
        for server in servers:
            assert models_asked(server) == {version}
            loads = [body for path, body in server.calls if path == "/v1/load_lora_adapter"]
            assert len(loads) == 1
            assert [short(name) for name in server.adapters] == [version]
        assert sum(len(versions_asked(server)) for server in servers) == len(REQUESTS)
    assert told == []
    policy.close()
    assert not any(server.adapters for server in servers)


def test_vllm_routing_balances_the_requests_under_way(several: Several) -> None:
    servers, policy, _ = several({}, {}, {}, {}, assignments=("rollouts.batch_size=8",))
    sampled(policy)
    for server in servers:
        server.calls.clear()
        server.answers.clear()
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    wait_until(lambda: sum(len(versions_asked(server)) for server in servers) == 8)
    assert [len(versions_asked(server)) for server in servers] == [2, 2, 2, 2]
    servers[2].answers.set()  # the ninth request goes to the one that has finished
    wait_until(lambda: len(versions_asked(servers[2])) == 3)
    for server in servers:
        server.answers.set()
    assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED


def test_vllm_description_names_every_server(several: Several) -> None:
    servers, policy, _ = several({}, {"version": "0.33.0"})
    urls = ", ".join(server.url for server in servers)
    assert policy.description.endswith(f"rollouts by vLLM 0.32.0, 0.33.0 at 2 servers: {urls}")


def test_an_adapter_missing_on_one_vllm_server_is_noticed_before_a_token(several: Several) -> None:
    servers, policy, _ = several({}, {})
    policy.apply(0.1)

    def hostile(handler: Any, path: str, body: Any) -> bool:
        if path != "/v1/load_lora_adapter":
            return False
        handler._send(200, {})  # and loads nothing
        return True

    servers[1].hostile = hostile
    with pytest.raises(TrainingError, match=f"{servers[1].url} has lost the adapter 4 times"):
        sampled(policy)
    assert not any(versions_asked(server) for server in servers)


def test_canary_notices_a_vllm_server_that_answers_with_the_base(several: Several) -> None:
    for faults in ({"serves_base": True}, {}), ({"serves_base": True}, {"serves_base": True}):
        servers, policy, _ = several(*faults)
        policy.apply(0.1)
        with pytest.raises(TrainingError, match="does not answer with it: it shows 0%") as failed:
            sampled(policy)
        assert servers[0].url in failed.value.message
        assert "one address must be one server" in failed.value.hint
        assert not any(versions_asked(server) for server in servers)


def test_canary_notices_other_weights_under_the_same_name(several: Several) -> None:
    servers, policy, _ = several({}, {"adapter_shift": 0.03})
    policy.apply(0.1)
    with pytest.raises(
        TrainingError, match=r"answer differently for the same adapter: 0\.03"
    ) as no:
        sampled(policy)
    assert all(server.url in no.value.message for server in servers)
    assert no.value.hint.startswith(f"start the one at {servers[1].url} again")


def test_canary_accepts_rounding_and_refuses_another_base_model(several: Several) -> None:
    _, policy, _ = several({}, {"shift": 0.015})
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED
    servers, policy, _ = several({}, {"shift": 0.2})
    with pytest.raises(UsageError, match=r"differently for the base model: 0\.2 nats") as failed:
        sampled(policy)
    assert servers[1].url in failed.value.message and "dtype" in failed.value.hint


def test_canary_does_not_judge_an_effect_below_the_rounding(several: Several) -> None:
    # Server and trainer are 0.05 nats apart for the base, and the adapter's effect is 0.1.
    faults = {"shift": 0.05, "serves_base": True}
    _, policy, _ = several(faults, faults)
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED


def test_canary_is_asked_once_a_load_and_scored_with_the_weights_of_a_prefetch(
    several: Several,
) -> None:
    servers, policy, _ = several({}, {})
    policy.apply(0.1)
    servers[0].answers.clear()
    servers[1].answers.clear()
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    policy.apply(0.1)  # the canary's reference must not be of these weights
    for server in servers:
        server.answers.set()
    assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED
    assert sampled(policy) == sampled(policy) == EXPECTED
    for server in servers:
        asked = [
            "base" if body["model"] == "base" else short(body["model"])
            for path, body in server.calls
            if path == "/v1/completions" and "prompt_logprobs" in body
        ]
        assert asked == ["base", "v000001", "v000002"]


def test_a_vllm_server_lost_between_two_steps_is_left_out_with_one_warning(
    several: Several, started: Callable[..., FakeVllm]
) -> None:
    servers, policy, told = several({}, {})
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED
    end(servers[1])
    for _ in range(2):
        policy.apply(0.1)
        assert sampled(policy) == EXPECTED
    lost = [line for line in told if "go on" in line]
    assert len(lost) == 1 and f"{servers[1].url} does not answer" in lost[0]
    assert "the other one of 2 go on" in lost[0]
    back = started(servers[1].server_port)
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED
    assert (
        models_asked(back) == {"v000004"} and told[-1] == f"the vLLM server at {back.url} is back"
    )


def test_a_vllm_server_lost_amid_a_step_leaves_its_requests_to_the_others(
    several: Several,
) -> None:
    servers, policy, told = several({}, {"dies_after": 2})
    policy.apply(0.1)
    servers[0].answers.clear()  # the other one gets a third request
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    wait_until(lambda: any("go on" in line for line in told))
    servers[0].answers.set()
    assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED
    # The request beside the one that fails is asked again, unless it has its answer.
    assert len(REQUESTS) - 2 <= len(versions_asked(servers[0])) < len(REQUESTS)
    assert sum("go on" in line for line in told) == 1


def test_a_vllm_server_that_is_lost_again_and_again_does_not_return(several: Several) -> None:
    servers, policy, told = several({}, {"dies_after": 0})  # it stays alive, and completes nothing
    for _ in range(6):
        servers[0].answers.clear()
        prefetched = policy.prefetch(REQUESTS, SAMPLING)
        wait_until(lambda: len(versions_asked(servers[0])) > 0)
        servers[0].answers.set()
        assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED
    assert sum("go on" in line for line in told) == 4
    assert sum("is back" in line for line in told) == 3


def test_the_last_vllm_server_that_is_lost_ends_the_run(several: Several) -> None:
    servers, policy, told = several({}, {})
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED
    for server in servers:
        end(server)
    with pytest.raises(TrainingError, match="does not answer") as failed:
        sampled(policy)
    assert any(server.url in failed.value.message for server in servers)
    assert sum("go on" in line for line in told) == 1


def test_a_lost_adapter_is_loaded_again_into_its_vllm_server_alone(several: Several) -> None:
    servers, policy, _ = several({}, {})
    policy.apply(0.1)
    sampled(policy)
    for server in servers:
        server.calls.clear()
    servers[0].adapters.clear()
    assert sampled(policy) == EXPECTED
    paths = [
        [path for path, _ in server.calls].count("/v1/load_lora_adapter") for server in servers
    ]
    assert paths == [1, 0]


@pytest.mark.parametrize(
    "faults",
    [
        {"info": {"vllm_config": {"parallel_config": {"data_parallel_size": 2}}}},
        {"metrics": 'vllm:x{engine="0"} 0\nvllm:x{engine="1"} 0\n'},
    ],
)
def test_a_data_parallel_vllm_server_among_several_is_refused_by_its_address(
    several: Several, faults: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="2 data-parallel replicas: an adapter that is") as failed:
        several({}, faults)
    assert "rollouts.vllm.url" in failed.value.hint


def test_sleep_mode_of_every_vllm_server(several: Several) -> None:
    servers, policy, _ = several({}, {}, assignments=("rollouts.vllm.sleep=true",))
    sampled(policy)
    policy.accumulate(PolicyGradientBatch(()))
    assert all(server.asleep for server in servers)
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED and not any(server.asleep for server in servers)
    end(servers[0])
    policy.accumulate(PolicyGradientBatch(()))
    assert servers[1].asleep
    policy.apply(0.1)
    assert sampled(policy) == EXPECTED


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"choices": [{}]}, "no prompt_logprobs for each token"),
        ({"choices": [{"prompt_logprobs": [None, None]}]}, "no prompt_logprobs for each token"),
        (
            {"choices": [{"prompt_logprobs": [None] * 64}]},
            "the log-probability of a prompt's token",
        ),
    ],
)
def test_a_canary_answer_that_cannot_be_used_is_an_error(
    several: Several, answer: Any, message: str
) -> None:
    servers, policy, _ = several({}, {})

    def hostile(handler: Any, path: str, body: Any) -> bool:
        if not isinstance(body, dict) or "prompt_logprobs" not in body:
            return False
        handler._send(200, answer)
        return True

    servers[0].hostile = hostile
    with pytest.raises(TrainingError, match=message) as failed:
        sampled(policy)
    assert servers[0].url in failed.value.message
