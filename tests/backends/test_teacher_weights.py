"""Conformance: scores, and which weights the student and the teacher have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    Sampling,
)
from opsd_cli.errors import ModelError, TrainingError
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support import oracle
from tests.support.backend_fixtures import Load
from tests.support.loss_batches import ITEMS
from tests.support.tiny_models import FAMILIES


def test_a_prompt_without_tokens_is_refused(load: Load) -> None:
    with pytest.raises(ModelError, match="no tokens"):
        load().score([((), (5, 6))])


def test_a_sequence_beyond_the_context_is_refused(load: Load) -> None:
    policy = load("llama")
    assert len(policy.score([((5,) * 40, (6,) * 8)])[0]) == 8
    with pytest.raises(ModelError, match="longer than the model's context of 48"):
        policy.score([((5,) * 41, (6,) * 8)])


def pairs_with(scores: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(scores)


PAIRS = [(item.teacher_prompt, item.completion) for item in ITEMS]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_dense_log_probabilities(
    load: Load, model_folder, adapter_folder, family: str
) -> None:
    folder = adapter_folder(family)
    policy = load(family)
    policy.load_adapter(folder)
    student, teacher = (
        oracle.Dense(model_folder(family), folder),
        oracle.dense(model_folder(family)),
    )
    for role, model, temperature in (("student", student, 1.0), ("teacher", teacher, 1.7)):
        found = policy.score(PAIRS, role=role, teacher="initial", sampling=Sampling(temperature))
        for (prompt, completion), scores in zip(PAIRS, found, strict=True):
            log_p = (model.logits(prompt, completion) / temperature).log_softmax(-1)
            wanted = log_p[range(len(completion)), list(completion)].detach()
            assert scores.dtype == np.float32
            np.testing.assert_allclose(scores, wanted, atol=2e-5)


def test_fresh_adapter_leaves_the_model_unchanged(load: Load) -> None:
    with_adapter, base = load(), load(trainable=False)
    np.testing.assert_allclose(
        pairs_with(with_adapter.score(PAIRS)), pairs_with(base.score(PAIRS)), atol=1e-6
    )
    batch = DivergenceBatch(
        tuple(DivergenceItem(i.student_prompt, i.student_prompt, i.completion) for i in ITEMS),
        DivergenceSpec(),
        "initial",
    )
    assert with_adapter.measure(batch).loss == pytest.approx(0.0, abs=1e-6)


def step(policy, teacher="initial", rate: float = 0.05) -> None:  # type: ignore[no-untyped-def]
    policy.accumulate(DivergenceBatch(ITEMS, DivergenceSpec("jsd"), teacher))
    policy.apply(rate)


def test_initial_teacher_stays_at_the_base(load: Load) -> None:
    policy = load()
    before = pairs_with(policy.score(PAIRS, role="teacher", teacher="initial"))
    step(policy)
    step(policy)
    after = pairs_with(policy.score(PAIRS, role="teacher", teacher="initial"))
    np.testing.assert_array_equal(before, after)
    assert np.abs(pairs_with(policy.score(PAIRS)) - after).max() > 0.01


def test_live_teacher_follows_the_student(load: Load) -> None:
    policy = load()
    step(policy)
    live = pairs_with(policy.score(PAIRS, role="teacher", teacher="live"))
    np.testing.assert_array_equal(live, pairs_with(policy.score(PAIRS)))
    same = tuple(DivergenceItem(i.student_prompt, i.student_prompt, i.completion) for i in ITEMS)
    assert policy.measure(DivergenceBatch(same, DivergenceSpec(), "live")).loss == pytest.approx(
        0.0, abs=1e-6
    )


def test_ema_teacher_has_the_moving_average_of_the_weights(
    load: Load, model_folder, adapter_folder, tmp_path: Path
) -> None:
    policy = load(teacher={"weights": "ema", "ema_decay": 0.6})
    policy.save_adapter(tmp_path / "0")
    average = oracle.weights(tmp_path / "0")
    for _ in range(3):
        step(policy, "ema")
        policy.save(tmp_path / "now")
        now = oracle.weights(tmp_path / "now")
        average = {name: 0.6 * average[name] + 0.4 * now[name] for name in now}
        oracle.assert_close(oracle.optimizer_state(tmp_path / "now", "ema"), average, 1e-5)
    # And it is what the teacher runs on.
    teacher = oracle.Dense(model_folder("qwen3"), tmp_path / "now")
    for name, parameter in teacher.parameters.items():
        parameter.data.copy_(parameter.new_tensor(average[name]))
    found = policy.score(PAIRS, role="teacher", teacher="ema")
    for (prompt, completion), scores in zip(PAIRS, found, strict=True):
        log_p = teacher.logits(prompt, completion).log_softmax(-1)
        wanted = log_p[range(len(completion)), list(completion)].detach()
        np.testing.assert_allclose(scores, wanted, atol=2e-5)


def test_ema_teacher_without_a_moving_average_is_refused(load: Load) -> None:
    with pytest.raises(TrainingError, match="no moving average"):
        load().score(PAIRS, role="teacher", teacher="ema")


def test_initial_teacher_of_a_started_adapter_is_that_adapter(
    load: Load, adapter_folder, tmp_path: Path
) -> None:
    folder = adapter_folder()
    policy = load(adapter=str(folder))
    before = pairs_with(policy.score(PAIRS))
    base = pairs_with(load(trainable=False).score(PAIRS))
    assert np.abs(before - base).max() > 0.01
    step(policy)
    policy.save(tmp_path / "step")
    initial = pairs_with(policy.score(PAIRS, role="teacher", teacher="initial"))
    np.testing.assert_array_equal(initial, before)
    # A resumed run has the same start, whatever has become of the folder since.
    moved = adapter_folder(seed=5)
    resumed = load(adapter=str(moved))
    resumed.restore(tmp_path / "step")
    np.testing.assert_array_equal(
        pairs_with(resumed.score(PAIRS, role="teacher", teacher="initial")), before
    )


def test_dropout_is_on_for_the_student_in_training_alone(load: Load, adapter_folder) -> None:
    policy = load(lora={"dropout": 0.5}, train={"gradient_checkpointing": True})
    policy.load_adapter(adapter_folder())
    batch = DivergenceBatch(ITEMS, DivergenceSpec(), "live")
    quiet = policy.measure(batch)
    noisy = policy.accumulate(batch)
    assert noisy.loss != pytest.approx(quiet.loss, rel=1e-3)
    for one, other in zip(quiet.tokens, noisy.tokens, strict=True):
        np.testing.assert_allclose(one.teacher_entropy, other.teacher_entropy, atol=1e-6)
    assert policy.measure(batch).loss == pytest.approx(quiet.loss, rel=1e-6)
