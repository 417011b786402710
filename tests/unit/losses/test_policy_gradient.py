"""The clipped surrogate with KL penalty: value and slope, by finite differences and autograd."""

from __future__ import annotations

import numpy as np
import pytest

from opsd_cli.losses.policy_gradient import SurrogateResult, surrogate

TOKENS = 40
CLIPS = {"clip_low": 0.1, "clip_high": 0.3}
#: What the surrogate may consist of: (ratio to the old policy, KL penalty).
PARTS = [(False, 0.0), (True, 0.0), (False, 0.05), (True, 0.05)]
every_part = pytest.mark.parametrize(("ratio", "kl"), PARTS)


def inputs() -> dict[str, np.ndarray]:
    """Old and initial log-probabilities around the current ones: ratios on both sides of both
    clips; advantages of both signs, and zeros."""
    random = np.random.default_rng(0)
    log_p_N = np.log(random.uniform(0.05, 0.95, TOKENS))
    return {
        "log_p_N": log_p_N,
        "advantages_N": random.choice([-1.5, -0.5, 0.0, 1.0], TOKENS),
        "old_log_p_N": log_p_N + random.normal(0, 0.4, TOKENS),
        "initial_log_p_N": log_p_N + random.normal(0, 0.6, TOKENS),
    }


def evaluated(ratio: bool, kl: float, xp=np, convert=lambda x: x, **changes) -> SurrogateResult:  # type: ignore[no-untyped-def]
    given = {name: convert(array) for name, array in (inputs() | changes).items()}
    if not ratio:
        del given["old_log_p_N"]
    if not kl:
        del given["initial_log_p_N"]
    return surrogate(xp=xp, kl=kl, **CLIPS, **given)


@every_part
def test_surrogate_value_equals_the_textbook_formula(ratio: bool, kl: float) -> None:
    found = evaluated(ratio, kl)
    columns = zip(*inputs().values(), strict=True)
    for n, (log_p, advantage, old, initial) in enumerate(columns):
        wanted = -advantage * log_p
        if ratio:
            r = np.exp(log_p - old)
            wanted = -min(r * advantage, min(max(r, 0.9), 1.3) * advantage)
        if kl:
            odds = np.exp(initial - log_p)
            wanted += kl * (odds - np.log(odds) - 1)
        assert found.value_N[n] == pytest.approx(wanted, rel=1e-12)


@every_part
def test_surrogate_slope_equals_finite_differences(ratio: bool, kl: float) -> None:
    step, log_p_N = 1e-6, inputs()["log_p_N"]
    above = evaluated(ratio, kl, log_p_N=log_p_N + step).value_N
    below = evaluated(ratio, kl, log_p_N=log_p_N - step).value_N
    slope_N = evaluated(ratio, kl).slope_N
    np.testing.assert_allclose(slope_N, (above - below) / (2 * step), rtol=1e-7, atol=1e-8)


@every_part
def test_token_weights_scale_the_surrogates_slope_alone(ratio: bool, kl: float) -> None:
    weights_N = np.random.default_rng(1).uniform(0, 2, TOKENS)
    plain, weighted = evaluated(ratio, kl), evaluated(ratio, kl, weights_N=weights_N)
    np.testing.assert_array_equal(weighted.value_N, plain.value_N)
    np.testing.assert_allclose(weighted.slope_N, weights_N * plain.slope_N, rtol=1e-12)


def test_surrogate_clips_only_where_the_ratio_leaves_its_bounds_in_the_advantages_favour() -> None:
    given = inputs()
    ratio_N = np.exp(given["log_p_N"] - given["old_log_p_N"])
    advantages_N = given["advantages_N"]
    outside_N = ((advantages_N > 0) & (ratio_N > 1.3)) | ((advantages_N < 0) & (ratio_N < 0.9))
    found = evaluated(True, 0.0)
    np.testing.assert_array_equal(found.clipped_N, outside_N.astype(float))
    assert 0 < outside_N.sum() < TOKENS
    np.testing.assert_array_equal(found.slope_N[outside_N], 0.0)
    np.testing.assert_array_equal(evaluated(False, 0.0).clipped_N, 0.0)


def test_kl_penalty_is_zero_and_flat_at_the_initial_policy() -> None:
    log_p_N = inputs()["log_p_N"]
    zero_N = np.zeros(TOKENS)
    found = surrogate(log_p_N, zero_N, np, initial_log_p_N=log_p_N, kl=0.1)
    np.testing.assert_array_equal(found.value_N, 0.0)
    np.testing.assert_array_equal(found.slope_N, 0.0)


@every_part
def test_torch_surrogate_slope_equals_autograd(ratio: bool, kl: float) -> None:
    torch = pytest.importorskip("torch")
    given = {name: torch.from_numpy(array) for name, array in inputs().items()}
    log_p_N = given["log_p_N"].requires_grad_()
    if ratio:
        r_N = (log_p_N - given["old_log_p_N"]).exp()
        value_N = -torch.minimum(
            r_N * given["advantages_N"], r_N.clamp(0.9, 1.3) * given["advantages_N"]
        )
    else:
        value_N = -given["advantages_N"] * log_p_N
    if kl:
        gap_N = given["initial_log_p_N"] - log_p_N
        value_N = value_N + kl * (gap_N.exp() - gap_N - 1)
    (slope_N,) = torch.autograd.grad(value_N.sum(), log_p_N)
    found = evaluated(ratio, kl, torch, torch.from_numpy)
    torch.testing.assert_close(found.value_N, value_N, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.slope_N, slope_N, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("namespace", ["torch", "mlx.core"])
@every_part
def test_float32_surrogate_agrees_with_numpy_in_float64(
    namespace: str, ratio: bool, kl: float
) -> None:
    xp = pytest.importorskip(namespace, exc_type=ImportError)
    make = xp.array if namespace == "mlx.core" else xp.from_numpy
    found = evaluated(ratio, kl, xp, lambda x: make(x.astype(np.float32)))
    wanted = evaluated(ratio, kl)
    for name in ("value_N", "slope_N", "clipped_N"):
        got = np.asarray(getattr(found, name))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, getattr(wanted, name), 1e-4, 1e-6, err_msg=name)


def test_surrogate_leaves_its_inputs_alone() -> None:
    given = inputs()
    copies = {name: array.copy() for name, array in given.items()}
    surrogate(xp=np, kl=0.1, **given)  # type: ignore[arg-type]
    for name, array in given.items():
        np.testing.assert_array_equal(array, copies[name])


def test_kl_penalty_without_initial_log_probs_is_refused() -> None:
    with pytest.raises(ValueError, match="initial policy"):
        surrogate(np.zeros(3), np.ones(3), np, kl=0.1)
