"""The shared loop with every method, on a policy without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import Rollout
from opsd_cli.comparison.curves import read_curve
from opsd_cli.config.resolve import resolve
from opsd_cli.config.sections import Optimizer
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.training import run_directory
from opsd_cli.training.result import TrainResult
from opsd_cli.training.run_directory import Run, read_rows
from opsd_cli.training.schedule import learning_rate
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS


def run_method(
    directory: Path, policy: FakePolicy, *assignments: str
) -> tuple[TrainResult, list[dict[str, Any]]]:
    config = resolve(
        None,
        [
            "model=a-model", "train.steps=4", "train.questions_per_step=5",
            "train.evaluate_every=2", "train.patience=null", *assignments,
        ],
    )  # fmt: skip
    with Run.create(directory, config, {"packages": {}}) as run:
        result = train(policy, SPLITS, run)
    return result, list(read_rows(directory / run_directory.METRICS))


@pytest.mark.parametrize("method", ["opsd", "grpo", "sft", "hybrid"])
def test_ledger_of_every_method_counts_what_it_did(method: str, tmp_path: Path) -> None:
    policy = FakePolicy(skill=0.4, gain=0.1)
    result, metrics = run_method(tmp_path / "run", policy, f"method={method}")
    assert result.method == method and result.steps == 4 and len(metrics) == 4
    assert result.accuracy["best"].value > result.accuracy["base"].value
    tokens, per_question = result.tokens, {"opsd": 1, "sft": 0}.get(method, 8)
    assert tokens.rollouts == 4 * 5 * per_question
    assert (tokens.generated > 0) == (tokens.prompt > 0) == (method != "sft")
    assert (tokens.teacher_scored > 0) == (method in ("opsd", "hybrid"))
    assert (tokens.scored > 0) == (method == "hybrid")
    assert tokens.trained > 0
    assert (metrics[0]["reward"] is None) == (method == "sft")
    assert ("zero_variance_groups" in metrics[0]) == (method in ("grpo", "hybrid"))
    assert ("divergence" in metrics[0]) == (method == "opsd")
    rollouts = list(read_rows(tmp_path / "run" / run_directory.ROLLOUTS))
    assert len(rollouts) == tokens.rollouts


def test_a_step_without_loss_batches_leaves_the_weights_alone(tmp_path: Path) -> None:
    policy = FakePolicy(skill=1.0, gain=0.1)
    result, metrics = run_method(tmp_path / "run", policy, "method=grpo")
    assert policy.skill == 1.0 and result.tokens.trained == 0
    assert all(row["loss"] == 0 and row["grad_norm"] == 0 for row in metrics)
    assert all(row["zero_variance_groups"] == 1 for row in metrics)


@pytest.mark.parametrize(("learn_from", "skill"), [("correct", 0.0), ("incorrect", 1.0)])
def test_a_step_whose_rollouts_are_all_left_out_makes_no_update(
    learn_from: str, skill: float, tmp_path: Path
) -> None:
    policy = FakePolicy(skill=skill, gain=0.1)
    more = (f"train.learn_from={learn_from}", "preflight.enabled=false")
    result, metrics = run_method(tmp_path / "run", policy, *more)
    assert policy.skill == skill and result.tokens.trained == result.tokens.teacher_scored == 0
    assert all(row["learnt_share"] == row["loss"] == row["grad_norm"] == 0 for row in metrics)
    assert "train.learn_from left out every rollout" in " ".join(result.remarks)


def test_a_run_on_correct_rollouts_trains_on_them_alone(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    result, metrics = run_method(
        directory, FakePolicy(skill=0.5, gain=0.0), "train.learn_from=correct"
    )
    rollouts = list(read_rows(directory / run_directory.ROLLOUTS))
    assert {row["correct"] for row in rollouts} == {True, False}
    assert all((row["divergence"] is not None) == row["correct"] for row in rollouts)
    for row in metrics:
        of_step = [each["correct"] for each in rollouts if each["step"] == row["step"]]
        assert row["learnt_share"] == row["reward"] == sum(of_step) / len(of_step)
    assert result.tokens.rollouts == len(rollouts)


def test_resample_replaces_zero_variance_groups_and_the_ledger_counts_both(
    tmp_path: Path,
) -> None:
    settings = ["method=grpo", "rollouts.per_question=2", "train.steps=2"]
    plain, _ = run_method(tmp_path / "plain", FakePolicy(skill=0.5, gain=0.0), *settings)
    settings += ["grpo.zero_variance=resample"]
    result, metrics = run_method(tmp_path / "run", FakePolicy(skill=0.5, gain=0.0), *settings)
    assert result.tokens.rollouts > plain.tokens.rollouts == 2 * 5 * 2
    rows = list(read_rows(tmp_path / "run" / run_directory.ROLLOUTS))
    assert len(rows) == result.tokens.rollouts
    assert sum(row["tokens"] for row in rows) == result.tokens.generated
    shares = [row["zero_variance_groups"] for row in metrics]
    before = [
        r["zero_variance_groups"] for r in read_rows(tmp_path / "plain" / run_directory.METRICS)
    ]
    assert sum(shares) < sum(before)
    again, _ = run_method(tmp_path / "again", FakePolicy(skill=0.5, gain=0.0), *settings)
    assert again.tokens == result.tokens


def test_learning_curve_on_test_changes_nothing_else(tmp_path: Path) -> None:
    with_curve, _ = run_method(
        tmp_path / "curve", FakePolicy(skill=0.3, gain=0.1), "train.curve=true"
    )
    without, _ = run_method(tmp_path / "plain", FakePolicy(skill=0.3, gain=0.1))
    assert with_curve.best_step == without.best_step
    assert with_curve.accuracy["best"] == without.accuracy["best"]
    curve = read_curve(tmp_path / "curve")
    assert curve.steps == (0, 2, 4) and curve.correct_EP.shape == (3, 30)
    assert curve.cost_E["generated"][0] == 0
    assert (curve.cost_E["generated"][1:] > 0).all() and curve.cost_E["generated"][1] < (
        curve.cost_E["generated"][2]
    )
    assert curve.cost_E["generated"][2] == with_curve.tokens.generated


def test_ledger_of_a_test_row_is_that_of_its_step(tmp_path: Path) -> None:
    # Skill falls after the first step, so the best checkpoint is not the last.
    policy = FakePolicy(skill=0.9, gain=-0.2)
    result, _ = run_method(tmp_path / "run", policy, "preflight.enabled=false")
    assert result.best_step == 0
    rows = list(read_rows(tmp_path / "run" / run_directory.EVALUATIONS))
    spent = {(row["split"], row["step"]): row["ledger"]["generated"] for row in rows}
    assert spent["test", 0] == 0 and spent["test", 4] == spent["validation", 4] > 0
    assert json.loads((tmp_path / "run" / run_directory.RESULT).read_text())["best_step"] == 0


class Speechless(FakePolicy):
    """Ends every completion before its first token, as a full context does."""

    def generate(self, requests: Any, *_: Any, **__: Any) -> Iterator[Rollout]:
        for request in requests:
            yield Rollout(request, (), np.zeros(0, np.float32), "length")


@pytest.mark.parametrize("method", ["opsd", "grpo", "hybrid"])
def test_empty_completions_are_trained_on_without_error(method: str, tmp_path: Path) -> None:
    result, metrics = run_method(
        tmp_path / "run", Speechless(), f"method={method}", "preflight.enabled=false"
    )
    assert result.tokens.generated == 0 and result.accuracy["best"].value == 0
    assert all(row["loss"] == 0 and row["completion_tokens"] == 0 for row in metrics)


@pytest.mark.parametrize("reduction", ["tokens", "sequences"])
def test_completion_weights_of_empty_completions(reduction: str) -> None:
    assert completion_weights([0, 0], reduction) == [0.0, 0.0]
    weights = completion_weights([0, 3], reduction)
    assert weights[1] * 3 == pytest.approx({"tokens": 1.0, "sequences": 0.5}[reduction])


def test_graded_and_stored_text_has_no_end_token(tmp_path: Path) -> None:
    """An unboxed answer that ended was graded wrong: "The answer is 6.<|im_end|>"."""

    class Unboxed(FakePolicy):
        def generate(self, requests: Any, *rest: Any, **more: Any) -> Iterator[Rollout]:
            for rollout in super().generate(requests, *rest, **more):
                boxed = self.tokenizer.decode(rollout.completion_ids)
                number = boxed.removeprefix("\\boxed{").partition("}")[0]
                ids = tuple(self.tokenizer.encode(f"The answer is {number}.<|im_end|>"))
                yield Rollout(rollout.request, ids, np.zeros(len(ids), np.float32), "stop")

    policy = Unboxed(skill=1.0, gain=0.0)
    result, metrics = run_method(tmp_path / "run", policy, "preflight.enabled=false")
    assert result.accuracy["base"].value == 1.0
    assert [row["reward"] for row in metrics] == [1.0] * 4
    rows = list(read_rows(tmp_path / "run" / run_directory.ROLLOUTS))
    assert all(row["completion"].endswith(".") for row in rows)
    assert all(row["tokens"] == len(row["completion"]) + 1 for row in rows)


def test_learning_rate_schedule_may_be_longer_than_the_run() -> None:
    falling = Optimizer(learning_rate=1.0, schedule="linear")
    published = Optimizer(learning_rate=1.0, schedule="linear", schedule_steps=27600)
    assert learning_rate(100, 100, falling) == pytest.approx(0.01)
    assert learning_rate(100, 100, published) == pytest.approx(1 - 99 / 27600)
    beyond = Optimizer(learning_rate=1.0, schedule="cosine", schedule_steps=10)
    assert learning_rate(11, 100, beyond) == learning_rate(90, 100, beyond) == 0


def test_build_loss_receives_the_step_number(tmp_path: Path) -> None:
    _, metrics = run_method(
        tmp_path / "run", FakePolicy(skill=0.4, gain=0.1), "method=hybrid",
        "hybrid.decay_updates=2",
    )  # fmt: skip
    assert [row["teacher_mix"] for row in metrics] == [0.5, 0.25, 0, 0]
