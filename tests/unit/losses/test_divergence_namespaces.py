"""The divergence in torch and MLX against NumPy in float64, and against autograd."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from opsd_cli.losses.divergence import compute_divergence, value_and_gradient
from tests.support.divergences import (
    KINDS,
    SPECS,
    every_spec,
    random_pair,
    spec_id,
)


def naive_torch(student, teacher, spec, torch):
    """The same quantities from textbook torch, for autograd to differentiate."""
    log_p = torch.log_softmax(student / spec.temperature, -1)
    log_q = torch.log_softmax(teacher / spec.temperature, -1)
    if spec.top_k is not None:
        kept = teacher.topk(spec.top_k, -1).indices
        p, q = log_p.exp().gather(-1, kept), log_q.exp().gather(-1, kept)
        if spec.tail:
            p, q = (torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1) for x in (p, q))
        else:
            p, q = (x / x.sum(-1, keepdim=True) for x in (p, q))
        log_p, log_q = p.log(), q.log()
    if spec.effective_kind == "forward_kl":
        terms = log_q.exp() * (log_q - log_p)
    elif spec.effective_kind == "reverse_kl":
        terms = log_p.exp() * (log_p - log_q)
    else:
        log_m = torch.logaddexp(log_q + math.log(spec.beta), log_p + math.log1p(-spec.beta))
        terms = spec.beta * log_q.exp() * (log_q - log_m)
        terms = terms + (1 - spec.beta) * log_p.exp() * (log_p - log_m)
    if spec.clip == "pointwise":
        terms = terms.clamp(max=spec.clip_at)
    value = terms.sum(-1)
    return value.clamp(max=spec.clip_at) if spec.clip == "token" else value


@every_spec
def test_torch_agrees_with_autograd_of_the_naive_formula(spec):
    torch = pytest.importorskip("torch")
    student, teacher = (torch.from_numpy(x) for x in random_pair(tokens=8, gap=0.7))
    student.requires_grad_()
    spec = replace(spec, clip_at=0.02)
    value, gradient = value_and_gradient(student, teacher, spec, torch)
    assert not value.requires_grad and not gradient.requires_grad
    expected = naive_torch(student, teacher, spec, torch)
    expected.sum().backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, student.grad, rtol=1e-8, atol=1e-12)


@every_spec
def test_torch_float32_agrees_with_the_oracle(spec):
    torch = pytest.importorskip("torch")
    student, teacher = random_pair(tokens=4, vocabulary=5000)
    value, gradient = value_and_gradient(student, teacher, spec, np)
    ours = value_and_gradient(
        torch.from_numpy(student).float(), torch.from_numpy(teacher).float(), spec, torch
    )
    assert ours[0].dtype == ours[1].dtype == torch.float32
    np.testing.assert_allclose(ours[0].numpy(), value, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(ours[1].numpy(), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=spec_id)
def test_torch_half_types_are_computed_in_float32(kind):
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        student, teacher = (torch.from_numpy(x).to(dtype) for x in random_pair(vocabulary=500))
        ours = value_and_gradient(student, teacher, kind, torch)
        wide = value_and_gradient(student.double(), teacher.double(), kind, torch)
        assert ours[0].dtype == ours[1].dtype == torch.float32
        torch.testing.assert_close(ours[0], wide[0].float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours[1], wide[1].float(), rtol=1e-4, atol=1e-6)


def test_mlx_float32_agrees_with_the_oracle():
    mx = pytest.importorskip("mlx.core")
    student, teacher = random_pair(tokens=4, vocabulary=500)
    for spec in SPECS:
        oracle = compute_divergence(student, teacher, spec, np)
        ours = compute_divergence(
            mx.array(student, mx.float32), mx.array(teacher, mx.float32), spec, mx
        )
        for name in ("value_N", "gradient_NV", "clipped_N", "student_entropy_N"):
            got, want, where = np.array(getattr(ours, name)), getattr(oracle, name), spec_id(spec)
            np.testing.assert_allclose(got, want, 1e-4, 2e-6, err_msg=f"{name}, {where}")


def test_mlx_masked_logits_stay_finite():
    mx = pytest.importorskip("mlx.core")
    student = mx.array([[0.0, -math.inf, 1e4, -1e4, 3.0]])
    teacher = mx.array([[-math.inf, -math.inf, 2.0, 1e4, -1e4]])
    for spec in SPECS:
        value, gradient = value_and_gradient(student, teacher, spec, mx)
        assert mx.isfinite(value).all().item() and mx.isfinite(gradient).all().item()
