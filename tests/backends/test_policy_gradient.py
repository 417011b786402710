"""Conformance: the policy-gradient losses and their gradients, against dense ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.interface import (
    PolicyGradientBatch,
    PolicyGradientItem,
)
from tests.support import oracle
from tests.support.backend_fixtures import Load
from tests.support.loss_batches import ITEMS


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
