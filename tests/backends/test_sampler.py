"""Conformance: filters and draws, against their definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backends.interface import Backend, Sampling
from tests.support.oracle import filtered

#: Few distinct values, so that ties are common.
coarse = st.integers(-8, 8).map(lambda n: n / 2)
#: Others apart by more than float32 rounds: near ties may be broken either way.
fine = st.integers(-6144, 6144).map(lambda n: n / 1024)
logits_rows = st.lists(coarse | fine, min_size=2, max_size=12)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_p=st.sampled_from([0.05, 0.3, 0.63, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40]),
    min_p=st.sampled_from([0.0, 0.07, 0.31, 1.0]),
)


def on_a_threshold(logits: list[float], sampling: Sampling) -> bool:
    """Whether rounding may decide what is kept, so that float32 and float64 may differ."""
    nudged = [
        Sampling(
            sampling.temperature,
            min(1.0, sampling.top_p * (1 + sign)) if sampling.top_p < 1 else 1.0,
            sampling.top_k,
            min(1.0, sampling.min_p * (1 + sign)),
        )
        for sign in (-1e-5, 1e-5)
    ]
    first, second = (filtered(np.float32(logits), s) > 0 for s in nudged)
    return bool((first != second).any())


def kept(backend: Backend, rows_BV: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The filtered distribution of each row, float64 [B, V]."""
    rows_BV = np.float32(rows_BV)
    if backend.name == "mlx":
        import mlx.core as mx

        from backends.mlx import sampler as mlx_sampler

        weights_BV = np.array(mlx_sampler.filtered_weights(mx.array(rows_BV), sampling), np.float64)
    else:
        import torch

        from backends.pytorch import sampler as torch_sampler

        ids, weights = torch_sampler.filtered_weights(torch.tensor(rows_BV), sampling)
        weights_BV = np.zeros(rows_BV.shape)
        if ids is None:
            weights_BV[:] = weights
        else:
            assert bool((ids.diff(dim=-1) > 0).all())
            np.put_along_axis(weights_BV, ids.numpy(), weights.double().numpy(), -1)
    return weights_BV / weights_BV.sum(-1, keepdims=True)


def drawn(
    backend: Backend, rows_BV: np.ndarray, sampling: Sampling, uniform_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probabilities."""
    rows_BV = np.float32(rows_BV)
    if backend.name == "mlx":
        import mlx.core as mx

        from backends.mlx import sampler as mlx_sampler

        return mlx_sampler.draw(mx.array(rows_BV), sampling, np.float64(uniform_B))
    import torch

    from backends.pytorch import sampler as torch_sampler

    tokens, log_probs = torch_sampler.draw(
        torch.tensor(rows_BV), sampling, torch.tensor(np.float64(uniform_B))
    )
    assert log_probs.dtype == torch.float32
    return tokens.numpy(), log_probs.numpy()


def log_probs(backend: Backend, rows_BV: np.ndarray, sampling: Sampling) -> np.ndarray:
    """How likely each row is to give the token of its own place."""
    rows_BV = np.float32(rows_BV)
    if backend.name == "mlx":
        import mlx.core as mx

        from backends.mlx import sampler as mlx_sampler

        ids = mx.arange(len(rows_BV))
        return np.array(mlx_sampler.log_probs(mx.array(rows_BV), sampling, ids))
    import torch

    from backends.pytorch import sampler as torch_sampler

    ids_B = torch.arange(len(rows_BV))
    return torch_sampler.log_probs(torch.tensor(rows_BV), sampling, ids_B).numpy()


@given(logits=logits_rows, sampling=samplings)
def test_top_k_top_p_min_p_filters_equal_their_definition(
    backend: Backend, logits: list[float], sampling: Sampling
) -> None:
    assume(not on_a_threshold(logits, sampling))
    wanted = filtered(np.float32(logits), sampling)
    # In company, which must not matter.
    found = kept(backend, np.array([logits, logits[::-1], [0.0] * len(logits)]), sampling)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert ((found > 0) == (wanted > 0)).all()


@given(logits=logits_rows, sampling=samplings, number=st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_cumulative_distribution(
    backend: Backend, logits: list[float], sampling: Sampling, number: float
) -> None:
    assume(not on_a_threshold(logits, sampling))
    p = filtered(np.float32(logits), sampling)
    edges = p.cumsum()
    assume(np.abs(edges - number).min() > 1e-6)
    wanted = int(np.searchsorted(edges, number, side="right"))
    token, log_prob = drawn(backend, np.array([logits]), sampling, np.array([number]))
    assert token.tolist() == [wanted]
    assert log_prob.item() == pytest.approx(np.log(p[wanted]), abs=1e-5)


@given(logits=logits_rows, sampling=samplings)
def test_log_probs_equal_the_filtered_distribution(
    backend: Backend, logits: list[float], sampling: Sampling
) -> None:
    assume(not on_a_threshold(logits, sampling))
    with np.errstate(divide="ignore"):
        wanted = np.log(filtered(np.float32(logits), sampling))
    rows = np.array([logits] * len(logits))
    np.testing.assert_allclose(log_probs(backend, rows, sampling), wanted, atol=1e-5)


@given(logits=logits_rows, sampling=samplings, number=st.sampled_from([0.0, 1 - 2**-53]))
def test_extreme_uniform_numbers_draw_kept_tokens(
    backend: Backend, logits: list[float], sampling: Sampling, number: float
) -> None:
    rows = np.array([[-np.inf, *logits, -np.inf]])
    token, log_prob = drawn(backend, rows, sampling, np.array([number]))
    ids = np.flatnonzero(kept(backend, rows, sampling)[0])
    assert token.item() == (ids.min() if number == 0 else ids.max())
    assert np.isfinite(log_prob).all()


@given(logits=logits_rows)
def test_greedy_sampling_breaks_ties_by_the_lowest_id(
    backend: Backend, logits: list[float]
) -> None:
    row = np.float32(logits)
    token, log_prob = drawn(backend, row[None], Sampling(temperature=0.0), np.array([0.5]))
    assert token.item() == int(np.argmax(row))
    wanted = np.float64(row).max() - np.log(np.exp(np.float64(row)).sum())
    assert log_prob.item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(1.0, 0.9, 2, 0.1)])
def test_nan_logits_give_nan_log_probability(backend: Backend, sampling: Sampling) -> None:
    rows = np.array([[0.0, 1.0, np.nan, 2.0], [0.0, 1.0, 1.0, 2.0]])
    tokens, log_probs = drawn(backend, rows, sampling, np.array([0.5, 0.5]))
    assert np.isnan(log_probs).tolist() == [True, False]
    assert bool(((tokens >= 0) & (tokens < 4)).all())


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(1.3, 0.9),
        Sampling(0.7, 1.0, 40),
        Sampling(1.1, 0.95, 20),
        Sampling(1.0, 1.0, 0, 0.02),
        Sampling(0.6, 0.9, 50, 0.01),
    ],
    ids=str,
)
def test_sampling_over_a_large_vocabulary_equals_its_definition(
    backend: Backend, sampling: Sampling
) -> None:
    """Larger than the blocks in which sums are made; and every part of it can be drawn."""
    random = np.random.default_rng(7)
    rows = np.float32(random.normal(size=(3, 5000)) * 3)
    wanted = np.stack([filtered(row, sampling) for row in rows])
    found = kept(backend, rows, sampling)
    assert ((found > 0) == (wanted > 0)).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-9)
    edges = wanted[0].cumsum()
    # In the middle of each kept token's share, where rounding decides nothing.
    ids = np.flatnonzero(wanted[0])
    ids = ids[wanted[0][ids] > 1e-6][:200]
    middles = edges[ids] - wanted[0][ids] / 2
    tokens, log_probs = drawn(backend, np.repeat(rows[:1], len(ids), 0), sampling, middles)
    assert (tokens == ids).all()
    np.testing.assert_allclose(log_probs, np.log(wanted[0][ids]), atol=1e-4)
