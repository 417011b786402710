"""Conformance: losses, their gradients, and which weights the teacher has."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    PolicyGradientBatch,
    PolicyGradientItem,
    Sampling,
)
from opsd_cli.errors import ModelError, TrainingError
from opsd_cli.losses.divergence import DivergenceSpec, evaluate
from tests.support import oracle
from tests.support.backend_fixtures import Load
from tests.support.loss_batches import EOS, ITEMS, dense_loss
from tests.support.tiny_models import FAMILIES

KINDS = ("forward_kl", "reverse_kl", "jsd")
CLIPS = ("none", "pointwise", "token")


@pytest.fixture
def adapter_folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A random adapter of a family, as PEFT writes it."""

    def folder(family: str = "qwen3", seed: int = 1) -> Path:
        return oracle.random_adapter(model_folder(family), tmp_path / f"{family}-{seed}", seed)

    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_equal_the_dense_ones(
    load: Load, model_folder, adapter_folder, tmp_path: Path, family: str
) -> None:
    folder = adapter_folder(family)
    policy = load(family)
    policy.load_adapter(folder)
    student = oracle.Dense(model_folder(family), folder)
    teacher = oracle.dense(model_folder(family))
    for kind, clip in itertools.product(KINDS, CLIPS):
        batch = DivergenceBatch(ITEMS, DivergenceSpec(kind, 0.3, 1.3), "initial")
        unclipped, _ = dense_loss(batch, student, teacher)
        # A cap in the middle, so that it acts on some tokens and not on others.
        middle = 0.05 if clip == "pointwise" else torch.cat(unclipped).median().item() * 1.01
        batch = replace(batch, spec=replace(batch.spec, clip=clip, clip_at=middle))
        values, loss = dense_loss(batch, student, teacher)
        report = policy.accumulate(batch)
        share = np.concatenate([tokens.clipped for tokens in report.tokens]).mean()
        low, high = {"none": (0, 0), "pointwise": (0.01, 1), "token": (0.3, 0.7)}[clip]
        assert low <= share <= high
        assert report.loss == pytest.approx(float(loss.detach()), rel=1e-4), batch.spec
        for tokens, wanted in zip(report.tokens, values, strict=True):
            np.testing.assert_allclose(tokens.value, wanted.detach(), rtol=1e-3, atol=1e-5)
        oracle.assert_close(oracle.gradient(policy, tmp_path / "step"), student.gradient(loss))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_ragged_batch_equals_the_dense_one(
    load: Load, model_folder, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tokens = st.integers(3, 24)
    prompt = st.lists(tokens, min_size=1, max_size=9).map(tuple)
    completion = st.tuples(st.lists(tokens, max_size=9), st.sampled_from([(), (EOS,)])).map(
        lambda parts: (*parts[0], *parts[1])
    )
    item = st.builds(DivergenceItem, prompt, prompt, completion, st.floats(0.1, 2.0))
    items = data.draw(st.lists(item, min_size=1, max_size=5).map(tuple))
    budget = data.draw(st.sampled_from([1, 30, 10_000]))
    root = tmp_path_factory.getbasetemp() / "ragged"
    folder = root / "adapter"
    if not folder.exists():
        oracle.random_adapter(model_folder("llama"), folder, 2)
    policy = load("llama", train={"micro_batch_tokens": budget})
    policy.load_adapter(folder)
    student = oracle.dense(model_folder("llama"), folder)
    batch = DivergenceBatch(items, DivergenceSpec("jsd"), "initial")
    _, loss = dense_loss(batch, student, oracle.dense(model_folder("llama")))
    report = policy.accumulate(batch)
    assert [len(t.value) for t in report.tokens] == [len(i.completion) for i in items]
    assert report.loss == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-6)
    if any(i.completion for i in items):
        found = oracle.gradient(policy, root / "step")
        oracle.assert_close(found, student.gradient(loss))


def test_tokens_have_weights_of_their_own(
    load: Load, model_folder, adapter_folder, tmp_path: Path
) -> None:
    folder = adapter_folder()
    policy = load(train={"micro_batch_tokens": 30})
    policy.load_adapter(folder)
    student = oracle.Dense(model_folder("qwen3"), folder)
    random = np.random.default_rng(3)
    items = [
        replace(item, token_weights=tuple(random.uniform(0, 2, len(item.completion)).tolist()))
        for item in ITEMS[:-1]
    ]
    items.append(ITEMS[-1])  # and one without
    batch = DivergenceBatch(tuple(items), DivergenceSpec("forward_kl"), "initial")
    values, _ = dense_loss(batch, student, oracle.dense(model_folder("qwen3")))
    loss = sum(
        item.weight * (v * torch.tensor(item.token_weights or [1.0] * len(v))).sum()
        for item, v in zip(items, values, strict=True)
    )
    report = policy.accumulate(batch)
    assert report.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    for tokens, wanted in zip(report.tokens, values, strict=True):
        np.testing.assert_allclose(tokens.value, wanted.detach(), rtol=1e-3, atol=1e-5)
    oracle.assert_close(oracle.gradient(policy, tmp_path / "step"), student.gradient(loss))


def test_top_k_with_tail_reaches_the_loss(load: Load, model_folder, adapter_folder) -> None:
    folder = adapter_folder()
    policy = load()
    policy.load_adapter(folder)
    spec = DivergenceSpec("reverse_kl", top_k=4, tail=True)
    report = policy.measure(DivergenceBatch(ITEMS, spec, "initial"))
    student, teacher = (
        oracle.Dense(model_folder("qwen3"), folder),
        oracle.dense(model_folder("qwen3")),
    )
    for item, tokens in zip(ITEMS, report.tokens, strict=True):
        wanted = evaluate(
            student.logits(item.student_prompt, item.completion).detach().numpy(),
            teacher.logits(item.teacher_prompt, item.completion).detach().numpy(),
            spec,
            np,
        )
        np.testing.assert_allclose(tokens.value, wanted.value_N, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(tokens.student_entropy, wanted.student_entropy_N, atol=1e-4)
        np.testing.assert_allclose(tokens.teacher_entropy, wanted.teacher_entropy_N, atol=1e-4)


def test_policy_gradient_equals_the_dense_one(
    load: Load, model_folder, adapter_folder, tmp_path: Path
) -> None:
    folder = adapter_folder()
    policy = load()
    policy.load_adapter(folder)
    student = oracle.Dense(model_folder("qwen3"), folder)
    items = tuple(
        PolicyGradientItem(
            item.student_prompt,
            item.completion,
            tuple(0.5 * n - 1.0 for n in range(len(item.completion))),
            item.weight,
        )
        for item in ITEMS
    )
    report = policy.accumulate(PolicyGradientBatch(items, temperature=0.7))
    loss = 0.0
    for item, tokens in zip(items, report.tokens, strict=True):
        log_p = (student.logits(item.prompt, item.completion) / 0.7).log_softmax(-1)
        chosen = log_p[range(len(item.completion)), list(item.completion)]
        value = -chosen * chosen.new_tensor(item.advantages)
        np.testing.assert_allclose(tokens.value, value.detach(), rtol=1e-4, atol=1e-5)
        entropy = -(log_p.exp() * log_p).sum(-1).detach()
        np.testing.assert_allclose(tokens.student_entropy, entropy, atol=1e-4)
        assert len(tokens.teacher_entropy) == len(tokens.clipped) == 0
        loss = loss + item.weight * value.sum()
    assert report.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert report.teacher_tokens == 0
    oracle.assert_close(oracle.gradient(policy, tmp_path / "step"), student.gradient(loss))


def test_clipped_surrogate_and_penalty_equal_the_dense_ones(
    load: Load, model_folder, adapter_folder, tmp_path: Path
) -> None:
    folder = adapter_folder()
    policy = load()
    policy.load_adapter(folder)
    student = oracle.Dense(model_folder("qwen3"), folder)
    initial = oracle.dense(model_folder("qwen3"))
    random = np.random.default_rng(5)
    items, log_probs = [], []
    for item in ITEMS:
        if not item.completion:
            continue
        prompt, completion, rows = item.student_prompt, item.completion, range(len(item.completion))
        log_p = (student.logits(prompt, completion) / 0.7).log_softmax(-1)[rows, list(completion)]
        log_0 = (initial.logits(prompt, completion) / 0.7).log_softmax(-1)[rows, list(completion)]
        # Old log-probabilities around today's, so that ratios fall on both sides of both clips.
        old = log_p.detach().numpy() + random.normal(0, 0.4, len(completion))
        items.append(
            PolicyGradientItem(
                prompt,
                completion,
                tuple(random.choice([-1.5, 0.5, 1.0], len(completion)).tolist()),
                item.weight,
                tuple(old.tolist()),
                tuple(log_0.detach().numpy().tolist()),
            )
        )
        log_probs.append(log_p)
    batch = PolicyGradientBatch(tuple(items), 0.7, clip_low=0.1, clip_high=0.3, kl=0.05)
    report = policy.accumulate(batch)
    loss, clipped = 0.0, []
    for item, log_p, tokens in zip(items, log_probs, report.tokens, strict=True):
        total = 0.0
        for n, (advantage, old, first) in enumerate(
            zip(item.advantages, item.old_log_probs, item.initial_log_probs, strict=True)
        ):
            ratio = (log_p[n] - old).exp()
            outside = (advantage > 0 and ratio > 1.3) or (advantage < 0 and ratio < 0.9)
            surrogate = -advantage * (ratio.detach().clamp(0.9, 1.3) if outside else ratio)
            value = surrogate + 0.05 * ((first - log_p[n]).exp() - (first - log_p[n]) - 1)
            assert float(tokens.value[n]) == pytest.approx(float(value.detach()), rel=1e-4)
            assert bool(tokens.clipped[n]) == bool(outside)
            clipped.append(bool(outside))
            total = total + value
        loss = loss + item.weight * total
    assert any(clipped) and not all(clipped)
    assert report.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    oracle.assert_close(oracle.gradient(policy, tmp_path / "step"), student.gradient(loss))


def test_micro_batches_change_nothing(load: Load, adapter_folder, tmp_path: Path) -> None:
    folder = adapter_folder()
    batch = DivergenceBatch(ITEMS, DivergenceSpec(), "initial")
    found = []
    for budget in (1, 40, 10_000):
        policy = load(train={"micro_batch_tokens": budget})
        policy.load_adapter(folder)
        report = policy.accumulate(batch)
        found.append((report, oracle.gradient(policy, tmp_path / str(budget))))
    for report, gradient in found[1:]:
        assert report.loss == pytest.approx(found[0][0].loss, rel=1e-5)
        assert report.trained_tokens == found[0][0].trained_tokens
        oracle.assert_close(gradient, found[0][1], 1e-5)


def test_gradient_checkpointing_changes_nothing(load: Load, adapter_folder, tmp_path: Path) -> None:
    folder = adapter_folder()
    batch = DivergenceBatch(ITEMS, DivergenceSpec(), "initial")
    found = []
    for checkpointing in (False, True):
        policy = load(train={"gradient_checkpointing": checkpointing})
        policy.load_adapter(folder)
        policy.accumulate(batch)
        found.append(oracle.gradient(policy, tmp_path / str(checkpointing)))
    oracle.assert_close(found[1], found[0], 1e-5)


def test_gradients_of_two_batches_add_up(load: Load, adapter_folder, tmp_path: Path) -> None:
    policy = load()
    policy.load_adapter(adapter_folder())
    spec = DivergenceSpec()
    policy.accumulate(DivergenceBatch(ITEMS, spec))
    whole = oracle.gradient(policy, tmp_path / "whole")
    for item in ITEMS:
        policy.accumulate(DivergenceBatch((item,), spec))
    oracle.assert_close(oracle.gradient(policy, tmp_path / "parts"), whole, 1e-5)


@pytest.mark.parametrize("teacher", ["initial", "live"])
def test_a_batch_that_comes_again_spares_a_teacher_that_stays(
    load: Load, adapter_folder, tmp_path: Path, teacher: str
) -> None:
    found = []
    for again in (False, True):
        policy = load(train={"micro_batch_tokens": 40})
        policy.load_adapter(adapter_folder())
        batch = DivergenceBatch(ITEMS, DivergenceSpec("jsd"), teacher, again)  # type: ignore[arg-type]
        first = policy.accumulate(batch)
        policy.apply(0.05)
        second = policy.accumulate(batch)
        gradient = oracle.gradient(policy, tmp_path / str(again))
        other = policy.accumulate(replace(batch))
        found.append((first, second, other, gradient))
    (first, second, _, gradient), (first_again, second_again, other, gradient_again) = found
    assert first.loss == first_again.loss and second.loss == second_again.loss != first.loss
    oracle.assert_close(gradient_again, gradient, 1e-6)
    assert second.teacher_tokens == first.teacher_tokens == first_again.teacher_tokens > 0
    spared = 0 if teacher == "initial" else first.teacher_tokens
    assert second_again.teacher_tokens == spared
    assert other.teacher_tokens == first.teacher_tokens


def test_measure_reports_the_same_and_leaves_no_gradient(
    load: Load, adapter_folder, tmp_path: Path
) -> None:
    policy = load()
    policy.load_adapter(adapter_folder())
    batch = DivergenceBatch(ITEMS, DivergenceSpec(clip="token", clip_at=0.3), "initial")
    measured, accumulated = policy.measure(batch), policy.accumulate(batch)
    assert measured.loss == pytest.approx(accumulated.loss, rel=1e-6)
    for one, other in zip(measured.tokens, accumulated.tokens, strict=True):
        for name in ("value", "student_entropy", "teacher_entropy", "clipped"):
            assert getattr(one, name).dtype == np.float32
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    assert any(tokens.clipped.any() for tokens in measured.tokens)
    assert measured.trained_tokens == 0
    assert accumulated.trained_tokens == sum(
        len(i.student_prompt) + len(i.completion) for i in ITEMS
    )
    assert accumulated.teacher_tokens == measured.teacher_tokens
    assert accumulated.teacher_tokens == sum(
        len(i.teacher_prompt) + len(i.completion) for i in ITEMS
    )
    policy.apply(0.0)
    policy.measure(batch)
    assert policy.apply(0.0) == 0.0


def test_an_empty_completion_is_reported_and_learns_nothing(load: Load) -> None:
    policy = load()
    empty = DivergenceItem((5, 6), (7,), ())
    report = policy.accumulate(DivergenceBatch((empty, ITEMS[1]), DivergenceSpec()))
    assert [len(tokens.value) for tokens in report.tokens] == [0, 1]
    assert report.trained_tokens == 2
    assert policy.accumulate(DivergenceBatch((empty,), DivergenceSpec())).loss == 0.0


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


def test_a_fresh_adapter_leaves_the_model_as_it_is(load: Load) -> None:
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


def test_moving_average_is_that_of_the_weights(
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


def test_no_average_is_kept_unless_the_config_asks(load: Load) -> None:
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


def test_dropout_acts_on_the_student_in_training_alone(load: Load, adapter_folder) -> None:
    policy = load(lora={"dropout": 0.5}, train={"gradient_checkpointing": True})
    policy.load_adapter(adapter_folder())
    batch = DivergenceBatch(ITEMS, DivergenceSpec(), "live")
    quiet = policy.measure(batch)
    noisy = policy.accumulate(batch)
    assert noisy.loss != pytest.approx(quiet.loss, rel=1e-3)
    for one, other in zip(quiet.tokens, noisy.tokens, strict=True):
        np.testing.assert_allclose(one.teacher_entropy, other.teacher_entropy, atol=1e-6)
    assert policy.measure(batch).loss == pytest.approx(quiet.loss, rel=1e-6)
