"""Sampler against trainer: the gap, importance weights, and the warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import Sampling
from opsd_cli.rollouts.importance import importance_weights
from opsd_cli.tracking.listener import Listener
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.prefetching import Prefetching, run_config, run_training
from tests.support.small_problems import SPLITS


class Mistaken(Prefetching):
    """Finds tokens exp(0.5) times as likely as the sampler said, every second token."""

    def score(self, sequences: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        self.scored, self.asked_for = list(sequences), kwargs["sampling"]
        return [
            np.where(np.arange(len(completion)) % 2 == 0, 0.5, 0.0).astype(np.float32)
            for _, completion in sequences
        ]


@pytest.mark.parametrize("method", ["opsd", "grpo"])
def test_importance_weights_follow_the_trainers_probability(method: str, tmp_path: Path) -> None:
    policy = Mistaken(skill=0.3, gain=0.1)
    settings = [f"method={method}", "rollouts.engine=vllm", "train.steps=1"]
    result, metrics = run_training(
        tmp_path / "run", policy, *settings, "rollouts.importance_cap=1.2"
    )
    assert metrics[0]["sampler_gap_max"] == pytest.approx(0.5)
    assert metrics[0]["sampler_outside"] == 0
    assert policy.asked_for == Sampling(1.1, 0.95, 20, max_new_tokens=1024)
    assert 0.4 < metrics[0]["importance_capped"] < 0.6
    assert 1 < metrics[0]["importance"] < 1.2
    rollouts = 5 if method == "opsd" else 40
    assert len(policy.scored) == rollouts
    assert result.tokens.scored == sum(len(p) + len(c) for p, c in policy.scored)
    plain_policy = Mistaken(skill=0.3, gain=0.1)
    _, plain_metrics = run_training(tmp_path / "plain", plain_policy, *settings)
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


class Elsewhere(Prefetching):
    """Finds everything two nats less likely than the sampler said."""

    def score(self, sequences: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return [np.full(len(completion), -2.0, np.float32) for _, completion in sequences]


class Excluding(Prefetching):
    """Would not have sampled the first token of anything."""

    def score(self, sequences: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return [
            np.where(np.arange(len(completion)) == 0, -np.inf, 0.25).astype(np.float32)
            for _, completion in sequences
        ]


def test_importance_weight_is_0_outside_the_trainers_filters(tmp_path: Path) -> None:
    policy = Excluding(skill=0.3, gain=0.1)
    settings = ["rollouts.engine=vllm", "rollouts.importance_cap=2", "train.steps=1"]
    _, metrics = run_training(tmp_path / "run", policy, *settings)
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
def test_a_sampler_gap_that_means_another_model_warns_once(
    policy: type[Prefetching], said: list[str], tmp_path: Path
) -> None:
    heard, settings = Heard(), run_config("rollouts.engine=vllm", "train.steps=2")
    with Run.create(tmp_path / "run", settings, {"packages": {}}) as held:
        train(policy(skill=0.3, gain=0.1), SPLITS, held, listener=heard)
    about = [warning for warning in heard.warnings if "vLLM" in warning]
    assert len(about) == len(said) and all(s in w for s, w in zip(said, about, strict=True))


def test_importance_weights_are_ratios_up_to_the_cap() -> None:
    gap_N = np.array([-np.inf, -2.0, 0.0, 0.3, 5.0, np.inf])
    expected = [0.0, np.exp(-2.0), 1.0, np.exp(0.3), 2.0, 2.0]
    assert importance_weights(gap_N, 2.0) == pytest.approx(expected)
