"""Rollouts drawn ahead, and weighed for who drew them, on a policy without a model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import BatchReport, LossBatch, Rollout, RolloutRequest, Sampling
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ConfigError, Interrupted, RunError
from opsd_cli.rollouts.importance import importance_weights
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run, read_rows
from opsd_cli.training.trainer import TrainResult, train
from tests.support.fakes import FakePolicy, StopAfter
from tests.support.small_problems import SPLITS

OVERLAP = ("rollouts.engine=vllm", "rollouts.overlap=true")


class Ahead(FakePolicy):
    """Draws ahead with the skill it has when it is asked, and says what it was given to learn."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.learnt: list[LossBatch] = []
        self.asked_ahead: list[Sequence[RolloutRequest]] = []

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        self.asked_ahead.append(requests)
        drawing: Future[list[Rollout]] = Future()
        drawing.set_result(list(self.generate(requests, sampling)))
        return drawing

    def accumulate(self, batch: LossBatch) -> BatchReport:  # type: ignore[override]
        self.learnt.append(batch)
        return self.measure(batch)


def config(*assignments: str) -> Any:
    return resolve(
        None,
        [
            "model=a-model", "train.steps=6", "train.questions_per_step=5", "train.patience=null",
            "train.evaluate_every=2", "train.checkpoint_every=1", *assignments,
        ],
    )  # fmt: skip


def run(
    directory: Path, policy: FakePolicy, *assignments: str
) -> tuple[TrainResult, list[dict[str, Any]]]:
    with Run.create(directory, config(*assignments), {"packages": {}}) as held:
        result = train(policy, SPLITS, held)
    return result, list(read_rows(directory / run_directory.METRICS))


def drawn(directory: Path) -> list[tuple[int, str, bool]]:
    rows = read_rows(directory / run_directory.ROLLOUTS)
    return [(row["step"], row["problem_id"], row["correct"]) for row in rows]


@pytest.mark.parametrize("method", ["opsd", "grpo"])
def test_rollouts_drawn_ahead_are_one_step_old(method: str, tmp_path: Path) -> None:
    policy = Ahead(skill=0.3, gain=0.1)
    result, metrics = run(tmp_path / "run", policy, *OVERLAP, f"method={method}")
    assert [row["staleness"] for row in metrics] == [0, 1, 1, 1, 1, 1]
    assert len(policy.asked_ahead) == 5  # none for a step that never comes
    # The same questions with the same seeds as without; only the weights are others.
    plain_policy = Ahead(skill=0.3, gain=0.1)
    plain, rows = run(tmp_path / "plain", plain_policy, f"method={method}")
    assert not plain_policy.asked_ahead and "staleness" not in rows[0]
    assert [d[:2] for d in drawn(tmp_path / "run")] == [d[:2] for d in drawn(tmp_path / "plain")]
    old = [d[2] for d in drawn(tmp_path / "run")]
    new = [d[2] for d in drawn(tmp_path / "plain")]
    assert old != new and all(a <= b for a, b in zip(old, new, strict=True))  # older, no wiser
    assert result.tokens.rollouts == plain.tokens.rollouts
    assert result.tokens.generated == sum(r["tokens"] for r in _rollouts(tmp_path / "run"))


def _rollouts(directory: Path) -> Iterator[dict[str, Any]]:
    return read_rows(directory / run_directory.ROLLOUTS)


def test_a_run_that_was_stopped_goes_on_with_what_was_drawn_ahead(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", Ahead(skill=0.3, gain=0.1), *OVERLAP)
    stop = StopAfter(3)
    with (
        Run.create(tmp_path / "run", config(*OVERLAP), {"packages": {}}) as held,
        pytest.raises(Interrupted),
    ):
        train(Ahead(skill=0.3, gain=0.1), SPLITS, held, stop, stop)
    state = json.loads((held.latest() / run_directory.STATE).read_text())  # type: ignore[operator]
    assert state["ahead"]["step"] == 4 and len(state["ahead"]["rollouts"]) == 5
    policy = Ahead(skill=0.3, gain=0.1)
    with Run.resume(tmp_path / "run") as held:
        resumed = train(policy, SPLITS, held)
    assert drawn(tmp_path / "run") == drawn(tmp_path / "whole")
    assert resumed.tokens == whole.tokens and resumed.accuracy == whole.accuracy
    assert len(policy.asked_ahead) == 2  # for steps 5 and 6: step 4's were in the checkpoint


def test_what_was_drawn_ahead_and_never_learnt_is_paid_for(tmp_path: Path) -> None:
    policy = Ahead(skill=0.9, gain=-0.2)
    result, metrics = run(
        tmp_path / "run", policy, *OVERLAP, "train.patience=1", "preflight.enabled=false"
    )
    assert result.steps == 2 and len(policy.asked_ahead) == 2
    assert result.tokens.rollouts == 3 * 5
    assert result.tokens.generated > metrics[-1]["ledger"]["generated"]


class Mistaken(Ahead):
    """Finds what was drawn exp(0.5) times as likely as the sampler said, at every second token."""

    def score(self, sequences: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        self.scored, self.asked_for = list(sequences), kwargs["sampling"]
        return [
            np.where(np.arange(len(completion)) % 2 == 0, 0.5, 0.0).astype(np.float32)
            for _, completion in sequences
        ]


@pytest.mark.parametrize("method", ["opsd", "grpo"])
def test_tokens_are_weighed_by_the_trainer_s_probability(method: str, tmp_path: Path) -> None:
    policy = Mistaken(skill=0.3, gain=0.1)
    settings = [f"method={method}", "rollouts.engine=vllm", "train.steps=1"]
    result, metrics = run(tmp_path / "run", policy, *settings, "rollouts.importance_cap=1.2")
    assert metrics[0]["sampler_gap_max"] == pytest.approx(0.5)
    assert metrics[0]["sampler_outside"] == 0
    assert policy.asked_for == Sampling(1.1, 0.95, 20, max_new_tokens=1024)
    assert 0.4 < metrics[0]["importance_capped"] < 0.6
    assert 1 < metrics[0]["importance"] < 1.2
    rollouts = 5 if method == "opsd" else 40
    assert len(policy.scored) == rollouts
    assert result.tokens.scored == sum(len(p) + len(c) for p, c in policy.scored)
    plain_policy = Mistaken(skill=0.3, gain=0.1)
    _, plain_metrics = run(tmp_path / "plain", plain_policy, *settings)
    assert "importance" not in plain_metrics[0] and len(plain_policy.scored) == min(8, rollouts)
    (batch,), (plain,) = policy.learnt, plain_policy.learnt
    assert len(batch.items) == len(plain.items) > 0
    for item, other in zip(batch.items, plain.items, strict=True):
        wanted = [1.2 if n % 2 == 0 else 1.0 for n in range(len(item.completion))]
        if method == "opsd":
            assert item.token_weights == pytest.approx(wanted)  # type: ignore[union-attr]
            assert other.token_weights == ()  # type: ignore[union-attr]
        else:
            found = np.array(item.advantages) / np.array(other.advantages)  # type: ignore[union-attr]
            assert found == pytest.approx(wanted)


class Elsewhere(Ahead):
    """Finds everything two nats less likely than the sampler said."""

    def score(self, sequences: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return [np.full(len(completion), -2.0, np.float32) for _, completion in sequences]


class Excluding(Ahead):
    """Would not have drawn the first token of anything."""

    def score(self, sequences: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return [
            np.where(np.arange(len(completion)) == 0, -np.inf, 0.25).astype(np.float32)
            for _, completion in sequences
        ]


def test_what_the_trainer_would_not_draw_is_counted_and_not_learnt(tmp_path: Path) -> None:
    policy = Excluding(skill=0.3, gain=0.1)
    settings = ["rollouts.engine=vllm", "rollouts.importance_cap=2", "train.steps=1"]
    _, metrics = run(tmp_path / "run", policy, *settings)
    (batch,) = policy.learnt
    tokens = sum(len(item.completion) for item in batch.items)
    assert metrics[0]["sampler_outside"] == pytest.approx(len(batch.items) / tokens)
    assert metrics[0]["sampler_gap"] == metrics[0]["sampler_gap_max"] == pytest.approx(0.25)
    for item in batch.items:
        weights = item.token_weights  # type: ignore[union-attr]
        assert weights[0] == 0 and weights[1:] == pytest.approx([np.exp(0.25)] * (len(weights) - 1))


class Heard(Listener):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize(("policy", "said"), [(Mistaken, []), (Elsewhere, ["2.00 nats"])])
def test_another_model_behind_the_server_is_noticed_once(
    policy: type[Ahead], said: list[str], tmp_path: Path
) -> None:
    heard, settings = Heard(), config("rollouts.engine=vllm", "train.steps=2")
    with Run.create(tmp_path / "run", settings, {"packages": {}}) as held:
        train(policy(skill=0.3, gain=0.1), SPLITS, held, listener=heard)
    about = [warning for warning in heard.warnings if "vLLM" in warning]
    assert len(about) == len(said) and all(s in w for s, w in zip(said, about, strict=True))


def test_importance_weights_are_ratios_up_to_the_cap() -> None:
    gap_N = np.array([-np.inf, -2.0, 0.0, 0.3, 5.0, np.inf])
    expected = [0.0, np.exp(-2.0), 1.0, np.exp(0.3), 2.0, 2.0]
    assert importance_weights(gap_N, 2.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["rollouts.overlap=true"], "overlap needs vLLM"),
        (["rollouts.importance_cap=2"], "importance_cap needs vLLM"),
        ([*OVERLAP, "rollouts.vllm.sleep=true"], "exclude each other"),
        (["rollouts.engine=vllm", "rollouts.importance_cap=0.5"], "importance_cap"),
    ],
)
def test_what_does_not_go_together_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        config(*assignments)
    assert refused.value.hint and "\n" not in refused.value.message


class CalledBackLate(Future[list[Rollout]]):
    """Its result can be read some time before its callbacks run, as of Python's own futures."""

    def finish(self, rollouts: list[Rollout]) -> None:
        self.set_result(rollouts)
        time.sleep(0.2)
        self.late(self)

    def add_done_callback(self, fn: Any) -> None:
        self.late = fn


class LateCallbacks(Ahead):
    """Draws ahead in a thread."""

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        drawing = CalledBackLate()
        drawing.late = lambda _: None
        rollouts = list(self.generate(requests, sampling))
        threading.Thread(target=drawing.finish, args=[rollouts]).start()
        return drawing


def test_the_time_of_drawing_ahead_is_there_when_the_rollouts_are(tmp_path: Path) -> None:
    """`tokens_per_second` was null wherever the reader was faster than the future's callback."""
    policy = LateCallbacks(skill=0.3, gain=0.1)
    _, metrics = run(tmp_path / "run", policy, *OVERLAP, "train.steps=3")
    assert all(row["tokens_per_second"] for row in metrics)


def test_an_error_of_what_is_drawn_ahead_reaches_the_run(tmp_path: Path) -> None:
    class Failing(Ahead):
        def prefetch(
            self, requests: Sequence[RolloutRequest], sampling: Sampling
        ) -> Future[list[Rollout]]:
            drawing: Future[list[Rollout]] = Future()
            drawing.set_exception(RunError("the server is gone", "start it again"))
            return drawing

    with pytest.raises(RunError, match="the server is gone"):
        run(tmp_path / "run", Failing(skill=0.3), *OVERLAP)
    with Run.resume(tmp_path / "run") as held:  # the step before is kept
        assert held.state()["step"] == 1 and held.state()["ahead"] is None
