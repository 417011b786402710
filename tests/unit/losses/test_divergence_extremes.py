"""The divergence of extreme, masked and NaN logits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from opsd_cli.losses.divergence import DivergenceSpec, value_and_gradient
from tests.support.divergences import (
    SPECS,
    every_spec,
    random_pair,
    spec_id,
    specs,
    unhurried,
)


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
    # The gradient's terms cancel to 0; where logits are extreme they are as large as the value.
    scale = np.abs(gradient).max() + np.abs(value).max() + 1.0
    assert abs(gradient.sum()) <= 20 * np.finfo(dtype).eps * scale


@every_spec
def test_tokens_masked_for_both_roles_are_ignored(spec):
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
def test_entirely_masked_tail_stays_finite(spec, masked):
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


def test_reverse_kl_is_large_but_finite_where_the_teacher_masks():
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
def test_divergence_leaves_its_inputs_unchanged(spec):
    student, teacher = random_pair()
    copies = student.copy(), teacher.copy()
    value_and_gradient(student, teacher, spec, np)
    np.testing.assert_array_equal(student, copies[0])
    np.testing.assert_array_equal(teacher, copies[1])
