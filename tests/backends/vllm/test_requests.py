"""Completion requests to a vLLM server: their contents, and whose weights they ask for."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from backends.interface import DecodingReport
from backends.shared import decoding
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
    list(policy.generate(REQUESTS, SAMPLING, role="teacher", teacher="model"))
    assert not server.calls  # no file holds those: the backend's own engine draws


class Observer:
    def __init__(self) -> None:
        self.reports: list[DecodingReport] = []
        self.threads: set[threading.Thread] = set()

    def decoding(self, report: DecodingReport) -> None:
        self.reports.append(report)
        self.threads.add(threading.current_thread())

    def learning(self, done: int, total: int) -> None:
        raise AssertionError("nothing learns")


@pytest.mark.parametrize("ahead", [False, True])
def test_every_finished_rollout_is_reported_also_those_of_a_prefetch(
    served: Served, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    """Also those that finish shortly after another, since the next report may be long in coming."""
    monkeypatch.setattr(decoding, "REPORT_SECONDS", 3600.0)
    _, policy = served()
    observer = Observer()
    policy.observe(observer)
    if ahead:
        drawing = policy.prefetch(REQUESTS, SAMPLING)
        policy.observe(None)  # of other calls; the prefetch keeps its own
        assert {r.request.problem_id: r.completion_ids for r in drawing.result()} == EXPECTED
    else:
        assert sampled(policy) == EXPECTED
    reports, limit = observer.reports, SAMPLING.max_new_tokens
    assert [r.finished for r in reports] == list(range(10))
    assert (reports[0].tokens, reports[0].most) == (0, 9 * limit)
    added = [later.tokens - earlier.tokens for earlier, later in pairwise(reports)]
    saved = [earlier.most - later.most for earlier, later in pairwise(reports)]
    assert sorted(added) == sorted(map(len, EXPECTED.values()))
    assert saved == [limit - tokens for tokens in added]
    assert reports[-1].tokens == reports[-1].most
    assert (threading.current_thread() in observer.threads) is not ahead
