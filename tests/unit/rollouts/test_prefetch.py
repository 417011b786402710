"""Prefetched rollouts: their age, their ledger, resuming with them, and failures."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Rollout, RolloutRequest, Sampling
from opsd_cli.errors import ConfigError, Interrupted, RunError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import StopAfter
from tests.support.prefetching import OVERLAP, Prefetching, drawn_rollouts, run_config, run_training
from tests.support.small_problems import SPLITS


@pytest.mark.parametrize("method", ["opsd", "grpo"])
def test_prefetched_rollouts_are_one_step_old(method: str, tmp_path: Path) -> None:
    policy = Prefetching(skill=0.3, gain=0.1)
    result, metrics = run_training(tmp_path / "run", policy, *OVERLAP, f"method={method}")
    assert [row["staleness"] for row in metrics] == [0, 1, 1, 1, 1, 1]
    assert len(policy.prefetch_requests) == 5  # none for a step that never comes
    # The same questions with the same seeds as without; only the weights are others.
    plain_policy = Prefetching(skill=0.3, gain=0.1)
    plain, rows = run_training(tmp_path / "plain", plain_policy, f"method={method}")
    assert not plain_policy.prefetch_requests and "staleness" not in rows[0]
    assert [d[:2] for d in drawn_rollouts(tmp_path / "run")] == [
        d[:2] for d in drawn_rollouts(tmp_path / "plain")
    ]
    old = [d[2] for d in drawn_rollouts(tmp_path / "run")]
    new = [d[2] for d in drawn_rollouts(tmp_path / "plain")]
    assert old != new and all(a <= b for a, b in zip(old, new, strict=True))  # older, no wiser
    assert result.tokens.rollouts == plain.tokens.rollouts
    assert result.tokens.generated == sum(r["tokens"] for r in _rollouts(tmp_path / "run"))


def _rollouts(directory: Path) -> Iterator[dict[str, Any]]:
    return read_rows(directory / run_directory.ROLLOUTS)


def test_resume_uses_the_prefetched_rollouts_of_the_checkpoint(tmp_path: Path) -> None:
    whole, _ = run_training(tmp_path / "whole", Prefetching(skill=0.3, gain=0.1), *OVERLAP)
    stop = StopAfter(3)
    with (
        Run.create(tmp_path / "run", run_config(*OVERLAP), {"packages": {}}) as held,
        pytest.raises(Interrupted),
    ):
        train(Prefetching(skill=0.3, gain=0.1), SPLITS, held, stop, stop)
    state = json.loads((held.latest() / run_directory.STATE).read_text())  # type: ignore[operator]
    assert state["ahead"]["step"] == 4 and len(state["ahead"]["rollouts"]) == 5
    policy = Prefetching(skill=0.3, gain=0.1)
    with Run.resume(tmp_path / "run") as held:
        resumed = train(policy, SPLITS, held)
    assert drawn_rollouts(tmp_path / "run") == drawn_rollouts(tmp_path / "whole")
    assert resumed.tokens == whole.tokens and resumed.accuracy == whole.accuracy
    assert len(policy.prefetch_requests) == 2  # for steps 5 and 6: step 4's were in the checkpoint


def test_ledger_counts_prefetched_rollouts_that_no_step_used(tmp_path: Path) -> None:
    policy = Prefetching(skill=0.9, gain=-0.2)
    result, metrics = run_training(
        tmp_path / "run", policy, *OVERLAP, "train.patience=1", "preflight.enabled=false"
    )
    assert result.steps == 2 and len(policy.prefetch_requests) == 2
    assert result.tokens.rollouts == 3 * 5
    assert result.tokens.generated > metrics[-1]["ledger"]["generated"]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["rollouts.overlap=true"], "overlap needs vLLM"),
        (["rollouts.importance_cap=2"], "importance_cap needs vLLM"),
        ([*OVERLAP, "rollouts.vllm.sleep=true"], "exclude each other"),
        (["rollouts.engine=vllm", "rollouts.importance_cap=0.5"], "importance_cap"),
    ],
)
def test_overlap_and_importance_settings_that_exclude_each_other_are_refused(
    assignments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        run_config(*assignments)
    assert refused.value.hint and "\n" not in refused.value.message


class CalledBackLate(Future[list[Rollout]]):
    """Its result can be read some time before its callbacks run, as of Python's own futures."""

    def finish(self, rollouts: list[Rollout]) -> None:
        self.set_result(rollouts)
        time.sleep(0.2)
        self.late(self)

    def add_done_callback(self, fn: Any) -> None:
        self.late = fn


class LateCallbacks(Prefetching):
    """Draws ahead in a thread."""

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        drawing = CalledBackLate()
        drawing.late = lambda _: None
        rollouts = list(self.generate(requests, sampling))
        threading.Thread(target=drawing.finish, args=[rollouts]).start()
        return drawing


def test_prefetch_time_is_known_when_the_rollouts_are(tmp_path: Path) -> None:
    """`tokens_per_second` was null wherever the reader was faster than the future's callback."""
    policy = LateCallbacks(skill=0.3, gain=0.1)
    _, metrics = run_training(tmp_path / "run", policy, *OVERLAP, "train.steps=3")
    assert all(row["tokens_per_second"] for row in metrics)


def test_prefetch_errors_reach_the_run_training(tmp_path: Path) -> None:
    class Failing(Prefetching):
        def prefetch(
            self, requests: Sequence[RolloutRequest], sampling: Sampling
        ) -> Future[list[Rollout]]:
            drawing: Future[list[Rollout]] = Future()
            drawing.set_exception(RunError("the server is gone", "start it again"))
            return drawing

    with pytest.raises(RunError, match="the server is gone"):
        run_training(tmp_path / "run", Failing(skill=0.3), *OVERLAP)
    with Run.resume(tmp_path / "run") as held:  # the step before is kept
        assert held.state()["step"] == 1 and held.state()["ahead"] is None
