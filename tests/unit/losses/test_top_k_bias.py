"""Top-k reverse KL: the bias that arXiv 2605.11182 found in the sum over k tokens is not in ours.

That sum, l = sum over K of p log(p/q) without renormalisation or a tail, has the gradient
sum over K of dp (log(p/q) + 1). Over the whole vocabulary the 1 cancels, because the dp add up to
0; over K it does not, and takes probability from the teacher's own tokens even where student and
teacher agree. The paper was read in summaries alone; the derivation here is ours.
"""

from __future__ import annotations

import numpy as np
import pytest

from opsd_cli.losses.divergence import DivergenceSpec, value_and_gradient

TOKENS, VOCABULARY, KEPT = 500, 60, 5


def logits(apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's and teacher's, float64 [N, V]; `apart` is how much noise the student has."""
    rng = np.random.default_rng(0)
    teacher = 2 * rng.normal(size=(TOKENS, VOCABULARY))
    return teacher + apart * rng.normal(size=teacher.shape), teacher


def gradient(apart: float, **outcomes: object) -> np.ndarray:
    spec = DivergenceSpec("reverse_kl", **outcomes)  # type: ignore[arg-type]
    return np.asarray(value_and_gradient(*logits(apart), spec, np)[1])


def probabilities(logits_NV: np.ndarray) -> np.ndarray:
    powers_NV = np.exp(logits_NV - logits_NV.max(axis=1, keepdims=True))
    return np.asarray(powers_NV / powers_NV.sum(axis=1, keepdims=True))


def biased_gradient(apart: float) -> np.ndarray:
    """Of the sum over the teacher's k tokens alone."""
    student_NV, teacher_NV = logits(apart)
    p_NV, q_NV = probabilities(student_NV), probabilities(teacher_NV)
    kept_NV = teacher_NV >= np.sort(teacher_NV)[:, -KEPT, None]
    g_NV = kept_NV * p_NV * (np.log(p_NV / q_NV) + 1)
    return np.asarray(g_NV - p_NV * g_NV.sum(axis=1, keepdims=True))


def cosine(one_NV: np.ndarray, other_NV: np.ndarray) -> float:
    return float((one_NV * other_NV).sum() / np.linalg.norm(one_NV) / np.linalg.norm(other_NV))


@pytest.mark.parametrize("tail", [True, False])
def test_top_k_gradient_is_0_where_student_and_teacher_agree(tail: bool) -> None:
    assert np.abs(gradient(0.0, top_k=KEPT, tail=tail)).max() < 1e-12
    assert np.linalg.norm(biased_gradient(0.0), axis=1).mean() == pytest.approx(0.128, abs=1e-3)


def test_top_k_gradient_points_where_that_of_the_whole_vocabulary_does() -> None:
    """The figures of docs/method.md."""
    whole = gradient(0.3)
    kept = [cosine(gradient(0.3, top_k=KEPT, tail=tail), whole) for tail in (True, False)]
    assert kept == pytest.approx([0.94, 0.88], abs=0.006)
    assert cosine(biased_gradient(0.3), whole) == pytest.approx(0.48, abs=0.006)


def test_top_k_gradient_with_a_tail_is_the_whole_one_if_the_tails_have_one_shape() -> None:
    student_NV, teacher_NV = logits(0.5)
    tail_NV = teacher_NV < np.sort(teacher_NV)[:, -KEPT, None]
    # In the tail the student differs from the teacher by one factor alone.
    student_NV = np.where(tail_NV, teacher_NV + 0.7, student_NV)
    found = [
        value_and_gradient(student_NV, teacher_NV, DivergenceSpec("reverse_kl", top_k=k), np)
        for k in (None, KEPT)
    ]
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-12)


def test_top_k_gradient_without_a_tail_leaves_the_tails_tokens_alone() -> None:
    _, teacher_NV = logits(0.5)
    tail_NV = teacher_NV < np.sort(teacher_NV)[:, -KEPT, None]
    assert not gradient(0.5, top_k=KEPT, tail=False)[tail_NV].any()
    assert gradient(0.5, top_k=KEPT, tail=True)[tail_NV].any()
