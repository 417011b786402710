"""Completion requests to a vLLM server: their contents, and whose weights they ask for."""

from __future__ import annotations

from tests.support.vllm_runs import EXPECTED, REQUESTS, SAMPLING, Served, models_asked, sampled


def test_a_completion_request_holds_prompt_seed_and_sampling(served: Served) -> None:
    server, policy = served()
    assert sampled(policy) == EXPECTED
    asked = [body for path, body in server.calls if path == "/v1/completions"]
    assert sorted(tuple(body["prompt"]) for body in asked) == sorted(r.prompt_ids for r in REQUESTS)
    assert {body["seed"] for body in asked} == {r.seed for r in REQUESTS}
    for body in asked:
        assert (body["temperature"], body["top_p"], body["top_k"]) == (1.1, 0.95, 20)
        assert body["stop_token_ids"] == [1] and body["return_token_ids"]
    assert "vLLM 0.32.0" in policy.description


def test_rollouts_of_a_teacher_use_its_weights(served: Served) -> None:
    server, policy = served()
    policy.apply(0.1)
    sampled(policy, role="teacher", teacher="initial")
    assert models_asked(server) == {"base"}
    server.calls.clear()
    sampled(policy, role="teacher", teacher="live")
    assert models_asked(server) == {"v000001"}
    server.calls.clear()
    list(policy.generate(REQUESTS, SAMPLING, role="teacher", teacher="ema"))
    assert not server.calls  # no file holds those: the backend's own engine draws
