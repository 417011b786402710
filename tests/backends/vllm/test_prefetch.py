"""Prefetched rollouts: their weights, errors, cancellation and restarts."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import TrainingError, UsageError
from tests.support.processes import PATIENCE_SECONDS, alive
from tests.support.vllm_runs import (
    EXPECTED,
    REQUESTS,
    SAMPLING,
    Served,
    own_server,
    resolved,
    sampled,
    short,
    sums,
    versions_asked,
)


def test_prefetch_uses_the_weights_at_the_time_of_the_call(served: Served) -> None:
    server, policy = served()
    policy.apply(0.1)
    server.answers.clear()
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    policy.apply(0.1)
    policy.apply(0.1)
    assert not prefetched.done()
    # Other rollouts wait for it, so that the server never needs two adapters at once.
    threading.Timer(0.3, server.answers.set).start()
    assert sampled(policy) == EXPECTED
    assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED
    asked = versions_asked(server)
    assert set(asked[: len(REQUESTS)]) == {"v000001"}
    assert set(asked[len(REQUESTS) :]) == {"v000003"}
    assert [short(name) for name in server.adapters] == ["v000003"]


def test_prefetch_gets_its_own_adapter_again_after_a_restart(served: Served) -> None:
    server, policy = served()
    policy.apply(0.1)
    sampled(policy)
    server.calls.clear()
    server.adapters.clear()
    server.answers.clear()
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    policy.apply(0.1)
    server.answers.set()
    assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED
    assert set(versions_asked(server)) == {"v000001"}


def test_prefetch_reports_an_error_with_its_result(served: Served) -> None:
    _, policy = served(refuses_adapters=True)
    policy.apply(0.1)
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    with pytest.raises(UsageError, match="does not take the adapter"):
        prefetched.result()


def test_prefetch_is_cancelled_when_the_run_ends(served: Served) -> None:
    server, policy = served("rollouts.batch_size=3")
    server.answers.clear()
    prefetched = policy.prefetch(REQUESTS, SAMPLING)
    while len(server.calls) < 3:
        time.sleep(0.01)
    policy.close()
    with pytest.raises(TrainingError, match="was ended"):
        prefetched.result(timeout=PATIENCE_SECONDS)
    assert len(versions_asked(server)) == 3  # of nine: the others were never sent
    server.answers.set()


def test_a_prefetch_error_ends_the_run_with_the_same_message(
    served: Served, tmp_path: Path
) -> None:
    from opsd_cli.training.run_directory import Run
    from opsd_cli.training.trainer import train

    server, policy = served()
    prefetching = threading.Event()

    def hostile(handler: Any, path: str, body: Any) -> bool:
        # The rollouts of step 2, which are prefetched while step 1 trains.
        if not (path == "/v1/completions" and prefetching.is_set()):
            return False
        handler._send(200, {"choices": []})
        return True

    server.hostile = hostile
    original = policy.prefetch

    def prefetch(*given: Any) -> Any:
        prefetching.set()
        return original(*given)

    policy.prefetch = prefetch  # type: ignore[method-assign]
    config = resolved(
        f"rollouts.vllm.url={server.url}", "rollouts.overlap=true", "preflight.enabled=false",
        "train.steps=3", "train.questions_per_step=5", "train.evaluate_every=3",
    )  # fmt: skip
    with (
        Run.create(tmp_path / "run", config, {"packages": {}}) as held,
        pytest.raises(TrainingError, match=f"{server.url} gave an answer .* it has 0 completions"),
    ):
        train(policy, sums(), held)


def test_prefetch_loses_no_rollout_when_the_server_dies(tmp_path: Path) -> None:
    policy = own_server(tmp_path, dies_after=3, once=True)
    policy.apply(0.1)
    try:
        first = (tmp_path / "pid").read_text()
        prefetched = policy.prefetch(REQUESTS, SAMPLING)
        policy.apply(0.1)
        assert {r.request.problem_id: r.completion_ids for r in prefetched.result()} == EXPECTED
        second = (tmp_path / "pid").read_text()
        assert second != first
        for thread in threading.enumerate():
            if thread.name == "prefetched rollouts":  # it started the server again
                thread.join()
        assert alive(int(second)) and sampled(policy) == EXPECTED
        assert (tmp_path / "pid").read_text() == second
    finally:
        policy.close()


def test_prefetch_after_close_does_not_start_the_server(tmp_path: Path) -> None:
    policy = own_server(tmp_path)
    process = (tmp_path / "pid").read_text()
    policy.close()
    with pytest.raises(TrainingError, match="was ended"):
        policy.prefetch(REQUESTS, SAMPLING).result()
    assert (tmp_path / "pid").read_text() == process and not alive(int(process))
