"""The divergence against finite differences, a naive autograd twin, and its own laws.

NumPy in float64 is the oracle; torch and MLX are held to it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opsd_cli.errors import ConfigError
from opsd_cli.losses.divergence import DivergenceSpec, evaluate, value_and_gradient

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
    if spec.named_kind == "forward_kl":
        return q * np.log(q / p)
    if spec.named_kind == "reverse_kl":
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


# Values


@every_spec
def test_value_is_the_formula(spec):
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
def test_non_negative_unless_clipped_pointwise(pair, spec):
    assume(spec.clip != "pointwise")
    value, _ = value_and_gradient(*pair, spec, np)
    assert (value >= -1e-12).all()


@given(logit_pairs(), specs)
@unhurried
def test_zero_at_equality(pair, spec):
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


@pytest.mark.parametrize(("beta", "named"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_jsd_at_an_end_of_beta_names_a_kl(beta, named):
    pair = random_pair()
    at_end = value_and_gradient(*pair, DivergenceSpec("jsd", beta=beta), np)
    kl = value_and_gradient(*pair, DivergenceSpec(named), np)
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


def test_a_tail_far_too_small_to_be_one_minus_the_rest_keeps_its_value():
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


def test_token_clipping_silences_the_tokens_above_the_cap_alone():
    near, far = random_pair(gap=0.01), random_pair(gap=3.0)
    student, teacher = (np.concatenate(rows) for rows in zip(near, far, strict=True))
    spec = DivergenceSpec("jsd", clip="token", clip_at=0.05)
    result = evaluate(student, teacher, spec, np)
    plain = evaluate(student, teacher, replace(spec, clip="none"), np)
    np.testing.assert_array_equal(result.clipped_N, [0.0] * 5 + [1.0] * 5)
    np.testing.assert_array_equal(result.value_N[5:], 0.05)
    np.testing.assert_array_equal(result.gradient_NV[5:], 0.0)
    np.testing.assert_allclose(result.gradient_NV[:5], plain.gradient_NV[:5])


# What monitoring reads


@every_spec
def test_clipped_marks_the_tokens_that_clipping_changed(spec):
    pairs = [random_pair(tokens=10, gap=gap, seed=1) for gap in (0.01, 0.3, 2.0)]
    student, teacher = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    clipped = evaluate(student, teacher, replace(spec, clip_at=0.01), np)
    plain = evaluate(student, teacher, replace(spec, clip="none"), np)
    changed = clipped.value_N != plain.value_N
    np.testing.assert_array_equal(clipped.clipped_N, changed.astype(float))
    if spec.clip != "none":
        assert 0 < changed.sum() < 30


@pytest.mark.parametrize("outcomes", OUTCOMES, ids=["full", "tail", "renormalised"])
def test_entropies_are_of_the_distributions_compared(outcomes):
    student, teacher = random_pair()
    spec = DivergenceSpec("jsd", temperature=1.4, **outcomes)
    result = evaluate(student, teacher, spec, np)
    p, q = naive_outcomes(student, teacher, spec)
    np.testing.assert_allclose(result.student_entropy_N, -(p * np.log(p)).sum(-1))
    np.testing.assert_allclose(result.teacher_entropy_N, -(q * np.log(q)).sum(-1))


# Hard numbers


@given(
    st.lists(
        st.lists(
            st.sampled_from([-math.inf, -1e4, -88.0, -1.0, 0.0, 1.0, 88.0, 1e4]),
            min_size=6,
            max_size=6,
        ),
        min_size=2,
        max_size=2,
    ),
    specs,
    st.sampled_from([np.float32, np.float64]),
)
@unhurried
def test_extreme_and_masked_logits_stay_finite(rows, spec, dtype):
    # A row that masks everything has no distribution, nor has one whose kept tokens are all masked.
    assume(all(max(row) > -math.inf for row in rows))
    student, teacher = (np.array([row], dtype) for row in rows)
    if spec.top_k is not None and not spec.tail:
        kept = np.argsort(-teacher[0], kind="stable")[:3]
        assume(len(set(rows[1])) == 6 and student[0, kept].max() > -math.inf)
    value, gradient = value_and_gradient(student, teacher, spec, np)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    scale = np.abs(gradient).max() + 1.0
    assert abs(gradient.sum()) <= 20 * np.finfo(dtype).eps * scale


@every_spec
def test_tokens_masked_for_both_roles_take_no_part(spec):
    student, teacher = random_pair(vocabulary=20)
    masked = [np.insert(x, [0, 7, 20], -math.inf, axis=-1) for x in (student, teacher)]
    value, gradient = value_and_gradient(*masked, spec, np)
    plain_value, plain_gradient = value_and_gradient(student, teacher, spec, np)
    np.testing.assert_allclose(value, plain_value, rtol=1e-10)
    padding = [0, 8, 22]
    np.testing.assert_array_equal(gradient[:, padding], 0.0)
    np.testing.assert_allclose(np.delete(gradient, padding, -1), plain_gradient, atol=1e-14)


@pytest.mark.parametrize("masked", ["student", "teacher", "both"])
@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if spec.top_k and spec.temperature == 1.0], ids=spec_id
)
def test_a_tail_that_is_masked_entirely_stays_finite(spec, masked):
    rows = {"student": random_pair(vocabulary=6)[0], "teacher": random_pair(vocabulary=6)[1]}
    kept = np.argsort(-rows["teacher"], -1)[:, :3]
    for role in rows if masked == "both" else [masked]:
        tail_off = np.full_like(rows[role], -math.inf)
        np.put_along_axis(tail_off, kept, np.take_along_axis(rows[role], kept, -1), -1)
        rows[role] = tail_off
    value, gradient = value_and_gradient(rows["student"], rows["teacher"], spec, np)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    if masked == "both":
        rows = {role: np.take_along_axis(row, kept, -1) for role, row in rows.items()}
        spec = replace(spec, top_k=None)
        alone, _ = value_and_gradient(rows["student"], rows["teacher"], spec, np)
        np.testing.assert_allclose(value, alone, rtol=1e-10)


def test_a_price_is_put_on_mass_where_the_teacher_has_none():
    student, teacher = np.zeros((1, 2)), np.array([[0.0, -math.inf]])
    value, gradient = value_and_gradient(student, teacher, DivergenceSpec("reverse_kl"), np)
    assert value[0] > 1e5
    assert gradient[0, 1] > 1e5


def test_nan_logits_are_not_hidden():
    student, teacher = random_pair(tokens=2)
    student[1, 3] = math.nan
    for spec in SPECS[:18]:
        value, _ = value_and_gradient(student, teacher, replace(spec, top_k=None), np)
        assert np.isfinite(value[0]) and np.isnan(value[1])


@every_spec
def test_inputs_are_left_alone(spec):
    student, teacher = random_pair()
    copies = student.copy(), teacher.copy()
    value_and_gradient(student, teacher, spec, np)
    np.testing.assert_array_equal(student, copies[0])
    np.testing.assert_array_equal(teacher, copies[1])


# The other namespaces


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
    if spec.named_kind == "forward_kl":
        terms = log_q.exp() * (log_q - log_p)
    elif spec.named_kind == "reverse_kl":
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
        oracle = evaluate(student, teacher, spec, np)
        ours = evaluate(mx.array(student, mx.float32), mx.array(teacher, mx.float32), spec, mx)
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
def test_a_bad_choice_is_named_and_comes_with_a_hint(field, value, named):
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
        evaluate(student, teacher, DivergenceSpec(), np)


def test_an_unknown_namespace_is_refused():
    with pytest.raises(TypeError, match="math"):
        evaluate(np.zeros((1, 3)), np.zeros((1, 3)), DivergenceSpec(), math)
