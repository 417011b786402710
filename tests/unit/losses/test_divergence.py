"""The divergence against its formulas, finite differences and its own laws, in NumPy's float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from opsd_cli.config.divergence_section import Divergence
from opsd_cli.errors import ConfigError
from opsd_cli.losses import divergence
from opsd_cli.losses.divergence import (
    DivergenceSpec,
    KindEntry,
    compute_divergence,
    value_and_gradient,
)
from tests.support.divergences import (
    KINDS,
    OUTCOMES,
    every_spec,
    finite_differences,
    logit_pairs,
    naive_outcomes,
    naive_terms,
    random_pair,
    spec_id,
    specs,
    unhurried,
)

# Values


@every_spec
def test_divergence_value_equals_the_formula(spec):
    student, teacher = random_pair()
    terms = naive_terms(*naive_outcomes(student, teacher, spec), spec)
    if spec.clip == "pointwise":
        terms = np.minimum(terms, spec.clip_at)
    expected = terms.sum(-1)
    if spec.clip == "token":
        expected = np.minimum(expected, spec.clip_at)
    value, _ = value_and_gradient(student, teacher, spec, np)
    np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)


@given(logit_pairs(), specs)
@unhurried
def test_divergence_is_non_negative_unless_clipped_pointwise(pair, spec):
    assume(spec.clip != "pointwise")
    value, _ = value_and_gradient(*pair, spec, np)
    assert (value >= -1e-12).all()


@given(logit_pairs(), specs)
@unhurried
def test_divergence_is_zero_at_equality(pair, spec):
    student, _ = pair
    value, gradient = value_and_gradient(student, student.copy(), spec, np)
    np.testing.assert_allclose(value, 0.0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)


@given(logit_pairs(), st.sampled_from(["none", "pointwise", "token"]))
@unhurried
def test_jsd_at_one_half_is_symmetric_and_at_most_log_two(pair, clip):
    student, teacher = pair
    spec = DivergenceSpec("jsd", beta=0.5, clip=clip)
    there, _ = value_and_gradient(student, teacher, spec, np)
    back, _ = value_and_gradient(teacher, student, spec, np)
    np.testing.assert_allclose(there, back, rtol=1e-9, atol=1e-12)
    assert (there <= math.log(2) + 1e-12).all()


@pytest.mark.parametrize(("beta", "kind"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_jsd_at_an_end_of_beta_is_a_kl(beta, kind):
    pair = random_pair()
    at_end = value_and_gradient(*pair, DivergenceSpec("jsd", beta=beta), np)
    kl = value_and_gradient(*pair, DivergenceSpec(kind), np)
    for ours, theirs in zip(at_end, kl, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("beta", "named"), [(1e-6, "forward_kl"), (1 - 1e-6, "reverse_kl")])
def test_jsd_near_an_end_of_beta_is_that_kl_scaled_down(beta, named):
    pair = random_pair(gap=0.5)
    value, gradient = value_and_gradient(*pair, DivergenceSpec("jsd", beta=beta), np)
    kl_value, kl_gradient = value_and_gradient(*pair, DivergenceSpec(named), np)
    np.testing.assert_allclose(value / 1e-6, kl_value, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(gradient / 1e-6, kl_gradient, rtol=1e-3, atol=1e-4)


@given(logit_pairs(), specs, st.floats(-50, 50), st.floats(-50, 50))
@unhurried
def test_shifting_all_logits_of_a_role_changes_nothing(pair, spec, up, down):
    student, teacher = pair
    ordered = np.sort(teacher, -1)
    # Adding a constant may make two teacher logits equal, and with them the choice of the top k.
    assume(spec.top_k is None or (np.diff(ordered, axis=-1) > 1e-9).all())
    plain = value_and_gradient(student, teacher, spec, np)
    shifted = value_and_gradient(student + up, teacher + down, spec, np)
    np.testing.assert_allclose(shifted[0], plain[0], atol=1e-9)
    if spec.clip == "none":
        np.testing.assert_allclose(shifted[1], plain[1], atol=1e-9)


@every_spec
def test_temperature_divides_both_logits(spec):
    student, teacher = random_pair()
    hot = value_and_gradient(student, teacher, replace(spec, temperature=2.5), np)
    cooled = value_and_gradient(student / 2.5, teacher / 2.5, replace(spec, temperature=1.0), np)
    np.testing.assert_allclose(hot[0], cooled[0], rtol=1e-10)
    np.testing.assert_allclose(hot[1], cooled[1] / 2.5, rtol=1e-8, atol=1e-14)


# Top-k


@given(logit_pairs(), specs)
@unhurried
def test_top_k_of_the_whole_vocabulary_is_the_full_divergence(pair, spec):
    vocabulary = pair[0].shape[-1]
    full = value_and_gradient(*pair, replace(spec, top_k=None), np)
    for k in (vocabulary, vocabulary + 5):
        kept = value_and_gradient(*pair, replace(spec, top_k=k), np)
        np.testing.assert_array_equal(kept[0], full[0])
        np.testing.assert_array_equal(kept[1], full[1])


@pytest.mark.parametrize("kind", KINDS, ids=spec_id)
@pytest.mark.parametrize("clip", ["none", "pointwise", "token"])
def test_a_tail_of_one_token_is_the_full_divergence(kind, clip):
    student, teacher = random_pair(vocabulary=12)
    spec = replace(kind, clip=clip, temperature=1.3)
    full = value_and_gradient(student, teacher, spec, np)
    kept = value_and_gradient(student, teacher, replace(spec, top_k=11, tail=True), np)
    np.testing.assert_allclose(kept[0], full[0], rtol=1e-10)
    np.testing.assert_allclose(kept[1], full[1], rtol=1e-8, atol=1e-14)


@given(logit_pairs(), st.sampled_from(KINDS), st.integers(1, 6))
@unhurried
def test_merging_outcomes_never_raises_the_divergence(pair, kind, k):
    full, _ = value_and_gradient(*pair, kind, np)
    merged, _ = value_and_gradient(*pair, replace(kind, top_k=k, tail=True), np)
    assert (merged <= full + 1e-12).all()


def test_tail_smaller_than_rounding_keeps_its_value():
    # Kept mass rounds to 1 in float64; the tails are exp(-60) and exp(-40).
    student, teacher = np.array([[0.0, 0.0, -60.0]]), np.array([[0.0, 0.0, -40.0]])
    spec = DivergenceSpec("forward_kl", top_k=2, tail=True)
    _, gradient = value_and_gradient(student, teacher, spec, np)
    assert gradient[0, 2] == pytest.approx(math.exp(-60) / 2 - math.exp(-40) / 2, rel=1e-9)


def test_without_a_tail_the_other_tokens_get_no_gradient():
    student, teacher = random_pair(tokens=1, vocabulary=10)
    spec = DivergenceSpec("jsd", top_k=4, tail=False)
    _, gradient = value_and_gradient(student, teacher, spec, np)
    assert set(np.flatnonzero(gradient[0])) == set(np.argsort(-teacher[0])[:4])


# Gradients


@given(logit_pairs(), specs)
@settings(max_examples=300, deadline=None)
def test_gradient_agrees_with_finite_differences(pair, spec):
    student, teacher = pair
    p, q = naive_outcomes(student, teacher, spec)
    assume((p > 1e-9).all() and (q > 1e-9).all())
    if spec.top_k is not None:
        gaps = np.diff(np.sort(teacher, -1), axis=-1)
        assume((gaps > 1e-3).all())
    terms = naive_terms(p, q, spec)
    if spec.clip == "pointwise":
        assume((np.abs(terms - spec.clip_at) > 1e-3).all())
    if spec.clip == "token":
        assume((np.abs(terms.sum(-1) - spec.clip_at) > 1e-3).all())
    _, gradient = value_and_gradient(student, teacher, spec, np)
    expected = finite_differences(student, teacher, spec)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@given(logit_pairs(low=-30.0, high=30.0), specs)
@unhurried
def test_gradient_sums_to_zero_over_the_vocabulary(pair, spec):
    _, gradient = value_and_gradient(*pair, spec, np)
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-11)


def test_pointwise_clipping_flips_the_gradient_of_a_token_the_teacher_favours():
    teacher, student = np.log([[0.9, 0.08, 0.02]]), np.log([[0.6, 0.3, 0.1]])
    spec = DivergenceSpec("forward_kl")
    value, gradient = value_and_gradient(student, teacher, spec, np)
    assert gradient[0, 0] == pytest.approx(-0.30)
    assert value[0] > 0
    clipped = replace(spec, clip="pointwise", clip_at=0.05)
    value, gradient = value_and_gradient(student, teacher, clipped, np)
    assert gradient[0, 0] == pytest.approx(0.06)
    assert value[0] < 0


def test_token_clipping_removes_the_gradient_of_tokens_above_the_cap():
    near, far = random_pair(gap=0.01), random_pair(gap=3.0)
    student, teacher = (np.concatenate(rows) for rows in zip(near, far, strict=True))
    spec = DivergenceSpec("jsd", clip="token", clip_at=0.05)
    result = compute_divergence(student, teacher, spec, np)
    plain = compute_divergence(student, teacher, replace(spec, clip="none"), np)
    np.testing.assert_array_equal(result.clipped_N, [0.0] * 5 + [1.0] * 5)
    np.testing.assert_array_equal(result.value_N[5:], 0.05)
    np.testing.assert_array_equal(result.gradient_NV[5:], 0.0)
    np.testing.assert_allclose(result.gradient_NV[:5], plain.gradient_NV[:5])


# What monitoring reads


@every_spec
def test_clipped_marks_the_tokens_that_clipping_changed(spec):
    pairs = [random_pair(tokens=10, gap=gap, seed=1) for gap in (0.01, 0.3, 2.0)]
    student, teacher = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    clipped = compute_divergence(student, teacher, replace(spec, clip_at=0.01), np)
    plain = compute_divergence(student, teacher, replace(spec, clip="none"), np)
    changed = clipped.value_N != plain.value_N
    np.testing.assert_array_equal(clipped.clipped_N, changed.astype(float))
    if spec.clip != "none":
        assert 0 < changed.sum() < 30


@pytest.mark.parametrize("outcomes", OUTCOMES, ids=["full", "tail", "renormalised"])
def test_entropies_are_of_the_distributions_compared(outcomes):
    student, teacher = random_pair()
    spec = DivergenceSpec("jsd", temperature=1.4, **outcomes)
    result = compute_divergence(student, teacher, spec, np)
    p, q = naive_outcomes(student, teacher, spec)
    np.testing.assert_allclose(result.student_entropy_N, -(p * np.log(p)).sum(-1))
    np.testing.assert_allclose(result.teacher_entropy_N, -(q * np.log(q)).sum(-1))


# Registry


def hellinger(pair, beta, ops):
    """Squared Hellinger distance: l = (p + q) / 2 - sqrt(p q)."""
    root = ops.exp((pair.log_p + pair.log_q) / 2)
    return (pair.p + pair.q) / 2 - root, (pair.p - root) / 2


@pytest.mark.parametrize("clip", ["none", "token"])
@pytest.mark.parametrize("outcomes", OUTCOMES, ids=["full", "tail", "renormalised"])
def test_a_divergence_kind_added_from_outside_has_value_and_gradient(monkeypatch, clip, outcomes):
    monkeypatch.setitem(divergence.KINDS, "hellinger", KindEntry("squared Hellinger", hellinger))
    spec = DivergenceSpec("hellinger", clip=clip, clip_at=0.3, temperature=1.3, **outcomes)
    student, teacher = random_pair(vocabulary=8)
    value, gradient = value_and_gradient(student, teacher, spec, np)
    p, q = naive_outcomes(student, teacher, spec)
    wanted = ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1) / 2
    np.testing.assert_allclose(value, np.minimum(wanted, 0.3) if clip == "token" else wanted)
    numeric = finite_differences(student, teacher, spec)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-8)


def test_the_config_accepts_a_divergence_kind_added_from_outside(monkeypatch):
    with pytest.raises(ValidationError, match="'forward_kl', 'reverse_kl' or 'jsd'"):
        Divergence(kind="hellinger")
    monkeypatch.setitem(divergence.KINDS, "hellinger", KindEntry("squared Hellinger", hellinger))
    assert Divergence(kind="hellinger").spec().effective_kind == "hellinger"


# Mistakes


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("kind", "kl", "'kl'"),
        ("clip", "both", "'both'"),
        ("beta", -0.1, "-0.1"),
        ("beta", math.nan, "nan"),
        ("temperature", 0.0, "0.0"),
        ("temperature", math.inf, "inf"),
        ("clip_at", 0.0, "0.0"),
        ("clip_at", math.nan, "nan"),
        ("top_k", 0, "0"),
        ("top_k", 2.5, "2.5"),
        ("top_k", True, "True"),
    ],
)
def test_invalid_spec_is_refused_with_its_key_and_a_hint(field, value, named):
    with pytest.raises(ConfigError) as caught:
        DivergenceSpec(**{field: value})
    assert f"divergence.{field}" in caught.value.message and named in caught.value.message
    assert caught.value.hint


def test_one_kept_token_needs_a_tail():
    assert DivergenceSpec(top_k=1, tail=True).top_k == 1
    with pytest.raises(ConfigError, match="top_k"):
        DivergenceSpec(top_k=1, tail=False)


@pytest.mark.parametrize("shapes", [((2, 5), (2, 6)), ((2, 5), (1, 5)), ((5,), (5,))])
def test_logits_of_other_shapes_are_refused(shapes):
    student, teacher = (np.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="tokens, vocabulary"):
        compute_divergence(student, teacher, DivergenceSpec(), np)


def test_an_unknown_namespace_is_refused():
    with pytest.raises(TypeError, match="math"):
        compute_divergence(np.zeros((1, 3)), np.zeros((1, 3)), DivergenceSpec(), math)
