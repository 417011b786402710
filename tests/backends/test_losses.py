"""Conformance: the divergence losses and their gradients, against dense ones."""

from __future__ import annotations

import itertools
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
    RolloutRequest,
    Sampling,
)
from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence
from tests.support import oracle
from tests.support.backend_fixtures import Load
from tests.support.loss_batches import EOS, ITEMS, dense_loss
from tests.support.tiny_models import FAMILIES

KINDS = ("forward_kl", "reverse_kl", "jsd")
CLIPS = ("none", "pointwise", "token")


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
def test_loss_of_any_ragged_batch_equals_the_dense_one(
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


def test_token_weights_multiply_the_loss_and_gradient(
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


def test_top_k_with_tail_equals_the_dense_divergence(
    load: Load, model_folder, adapter_folder
) -> None:
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
        wanted = compute_divergence(
            student.logits(item.student_prompt, item.completion).detach().numpy(),
            teacher.logits(item.teacher_prompt, item.completion).detach().numpy(),
            spec,
            np,
        )
        np.testing.assert_allclose(tokens.value, wanted.value_N, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(tokens.student_entropy, wanted.student_entropy_N, atol=1e-4)
        np.testing.assert_allclose(tokens.teacher_entropy, wanted.teacher_entropy_N, atol=1e-4)


def test_micro_batches_leave_loss_and_gradient_unchanged(
    load: Load, adapter_folder, tmp_path: Path
) -> None:
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


def test_gradient_checkpointing_leaves_the_gradient_unchanged(
    load: Load, adapter_folder, tmp_path: Path
) -> None:
    folder = adapter_folder()
    batch = DivergenceBatch(ITEMS, DivergenceSpec(), "initial")
    found = []
    for checkpointing in (False, True):
        policy = load(train={"gradient_checkpointing": checkpointing})
        policy.load_adapter(folder)
        policy.accumulate(batch)
        found.append(oracle.gradient(policy, tmp_path / str(checkpointing)))
    oracle.assert_close(found[1], found[0], 1e-5)


def test_gradient_of_a_kl_anchor_joins_that_of_the_divergence(
    load: Load, model_folder, adapter_folder, tmp_path: Path
) -> None:
    """The anchor: the student's own prompt for the teacher too, whose weights are the initial."""
    main = DivergenceBatch(ITEMS[:1], DivergenceSpec(), "initial")
    own = [replace(item, teacher_prompt=item.student_prompt, weight=0.3) for item in ITEMS[:1]]
    anchor = DivergenceBatch(tuple(own), DivergenceSpec("reverse_kl"), "initial")
    policy = load()
    # Before the first update student and initial policy are the same.
    assert policy.measure(anchor).loss == pytest.approx(0, abs=1e-6)
    policy.load_adapter(adapter_folder())
    student = oracle.Dense(model_folder("qwen3"), adapter_folder())
    teacher = oracle.dense(model_folder("qwen3"))
    loss = sum(dense_loss(batch, student, teacher)[1] for batch in (main, anchor))
    reports = [policy.accumulate(batch) for batch in (main, anchor)]
    assert sum(report.loss for report in reports) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert reports[1].loss > 1e-3
    oracle.assert_close(oracle.gradient(policy, tmp_path / "step"), student.gradient(loss))


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
def test_teacher_cache_serves_a_repeated_batch_of_an_initial_teacher(
    load: Load, adapter_folder, tmp_path: Path, teacher: str
) -> None:
    found = []
    for again in (False, True):
        policy = load(train={"micro_batch_tokens": 40})
        policy.load_adapter(adapter_folder())
        batch = DivergenceBatch(ITEMS, DivergenceSpec("jsd"), teacher, again)  # type: ignore[arg-type]
        first = policy.accumulate(batch)
        policy.apply(0.05)
        policy.measure(replace(batch, again=False))  # an anchor, too, comes between two passes
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


def test_teacher_cache_serves_the_anchor_too_with_the_same_bits(
    load: Load, adapter_folder, tmp_path: Path
) -> None:
    def learnt(again: bool) -> tuple[list[tuple[float, int]], bytes]:
        """Loss and teacher's tokens of each batch of three updates, and the adapter after them."""
        policy = load(train={"micro_batch_tokens": 40})
        policy.load_adapter(adapter_folder())
        batch = DivergenceBatch(ITEMS, DivergenceSpec("jsd"), "initial", again)
        own = tuple(replace(item, teacher_prompt=item.student_prompt) for item in ITEMS)
        anchor = DivergenceBatch(own, DivergenceSpec("reverse_kl"), "initial", again)
        reports = []
        for update in [(batch, anchor)] * 2 + [(replace(batch), replace(anchor))]:
            reports += [policy.accumulate(each) for each in update]
            policy.apply(0.05)
        folder = tmp_path / str(again)
        folder.mkdir()
        policy.save_adapter(folder)
        weights = (folder / "adapter_model.safetensors").read_bytes()
        return [(report.loss, report.teacher_tokens) for report in reports], weights

    reports, adapter = learnt(False)
    kept, adapter_with_cache = learnt(True)
    assert adapter == adapter_with_cache
    assert [loss for loss, _ in kept] == [loss for loss, _ in reports]
    read = [tokens for _, tokens in reports]
    assert [tokens for _, tokens in kept] == [*read[:2], 0, 0, *read[4:]] and min(read) > 0


def test_teacher_cache_is_dropped_before_rollouts_are_sampled(load: Load) -> None:
    policy = load()
    batch = DivergenceBatch(ITEMS, DivergenceSpec(), "initial", again=True)
    read = [policy.accumulate(batch).teacher_tokens for _ in range(2)]
    list(policy.generate([RolloutRequest("p", 0, (5, 6), 1)], Sampling(max_new_tokens=1)))
    read.append(policy.accumulate(batch).teacher_tokens)
    assert read == [read[0], 0, read[0]] and read[0] > 0


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
