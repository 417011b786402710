"""Specs and logits that the tests of the divergence share, and its formulas by definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opsd_cli.losses.divergence import DivergenceSpec, value_and_gradient

KINDS = [
    DivergenceSpec("forward_kl"),
    DivergenceSpec("reverse_kl"),
    DivergenceSpec("jsd", beta=0.5),
    DivergenceSpec("jsd", beta=0.1),
    DivergenceSpec("jsd", beta=0.0),
    DivergenceSpec("jsd", beta=1.0),
]
OUTCOMES = [{}, {"top_k": 3, "tail": True}, {"top_k": 3, "tail": False}]
SPECS = [
    replace(kind, clip=clip, temperature=temperature, **outcomes)
    for kind in KINDS
    for clip in ("none", "pointwise", "token")
    for outcomes in OUTCOMES
    for temperature in (1.0, 1.7)
]


def spec_id(spec: DivergenceSpec) -> str:
    kind = f"jsd{spec.beta}" if spec.kind == "jsd" else spec.kind
    kept = "full" if spec.top_k is None else f"top{spec.top_k}{'+tail' if spec.tail else ''}"
    return f"{kind}-{spec.clip}-{kept}-T{spec.temperature}"


every_spec = pytest.mark.parametrize("spec", SPECS, ids=spec_id)
specs = st.sampled_from(SPECS)
unhurried = settings(deadline=None)


@st.composite
def logit_pairs(draw, low=-6.0, high=6.0, least_vocabulary=4):
    shape = (draw(st.integers(1, 3)), draw(st.integers(least_vocabulary, 8)))
    values = st.floats(low, high, allow_subnormal=False)
    return draw(arrays(np.float64, shape, elements=values)), draw(
        arrays(np.float64, shape, elements=values)
    )


def random_pair(tokens=5, vocabulary=40, gap=1.5, seed=0):
    rng = np.random.default_rng(seed)
    student = rng.normal(scale=2.0, size=(tokens, vocabulary))
    return student, student + rng.normal(scale=gap, size=student.shape)


def probabilities(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def naive_outcomes(student, teacher, spec):
    """p and q of the outcomes compared, by definition."""
    p, q = probabilities(student / spec.temperature), probabilities(teacher / spec.temperature)
    if spec.top_k is None or spec.top_k >= student.shape[-1]:
        return p, q
    kept = np.argsort(-teacher, axis=-1, kind="stable")[:, : spec.top_k]
    p, q = np.take_along_axis(p, kept, -1), np.take_along_axis(q, kept, -1)
    if spec.tail:
        return tuple(np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (p, q))
    return tuple(x / x.sum(-1, keepdims=True) for x in (p, q))


def naive_terms(p, q, spec):
    if spec.effective_kind == "forward_kl":
        return q * np.log(q / p)
    if spec.effective_kind == "reverse_kl":
        return p * np.log(p / q)
    m = spec.beta * q + (1 - spec.beta) * p
    return spec.beta * q * np.log(q / m) + (1 - spec.beta) * p * np.log(p / m)


def finite_differences(student, teacher, spec, step=1e-5):
    gradient = np.empty_like(student)
    for v in range(student.shape[-1]):
        up, down = student.copy(), student.copy()
        up[:, v] += step
        down[:, v] -= step
        upper = value_and_gradient(up, teacher, spec, np)[0]
        lower = value_and_gradient(down, teacher, spec, np)[0]
        gradient[:, v] = (upper - lower) / (2 * step)
    return gradient
