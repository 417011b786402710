"""Filters and draws of the torch sampler, against their definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from backends.interface import Sampling
from backends.pytorch.sampler import draw, keep
from tests.backends.oracle import filtered

#: Few distinct values, so that ties are common.
coarse = st.integers(-8, 8).map(lambda n: n / 2)
logits_rows = st.lists(coarse | st.floats(-6, 6, width=32), min_size=2, max_size=12)
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


@given(logits_rows, samplings)
def test_kept_tokens_and_probabilities_are_the_definition_s(
    logits: list[float], sampling: Sampling
) -> None:
    assume(not on_a_threshold(logits, sampling))
    wanted = filtered(np.float32(logits), sampling)
    # In company, which must not matter.
    rows = torch.tensor([logits, logits[::-1], [0.0] * len(logits)])
    ids, weights = keep(rows, sampling)
    found = torch.zeros(rows.shape, dtype=torch.float64)
    if ids is None:
        found = weights.double()
    else:
        assert bool((ids.diff(dim=-1) > 0).all())
        found.scatter_(-1, ids, weights.double())
    found /= found.sum(-1, keepdim=True)
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)
    assert ((found[0] > 0).numpy() == (wanted > 0)).all()


@given(logits_rows, samplings, st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_cumulative_distribution(
    logits: list[float], sampling: Sampling, number: float
) -> None:
    assume(not on_a_threshold(logits, sampling))
    p = filtered(np.float32(logits), sampling)
    edges = p.cumsum()
    assume(np.abs(edges - number).min() > 1e-6)
    wanted = int(np.searchsorted(edges, number, side="right"))
    token, log_prob = draw(torch.tensor([logits]), sampling, torch.tensor([number]).double())
    assert token.tolist() == [wanted]
    assert log_prob.dtype == torch.float32
    assert log_prob.item() == pytest.approx(np.log(p[wanted]), abs=1e-5)


@given(logits_rows, samplings, st.sampled_from([0.0, 1 - 2**-53]))
def test_the_extreme_numbers_draw_tokens_that_were_kept(
    logits: list[float], sampling: Sampling, number: float
) -> None:
    rows = torch.tensor([[-torch.inf, *logits, -torch.inf]])
    token, log_prob = draw(rows, sampling, torch.tensor([number], dtype=torch.float64))
    ids, weights = keep(rows, sampling)
    kept = (torch.arange(rows.shape[1])[None] if ids is None else ids)[weights > 0]
    assert token.item() == (kept.min() if number == 0 else kept.max())
    assert torch.isfinite(log_prob).all()


@given(logits_rows)
def test_greedy_takes_the_first_of_the_largest(logits: list[float]) -> None:
    rows = torch.tensor([logits])
    token, log_prob = draw(rows, Sampling(temperature=0.0), torch.tensor([0.5]).double())
    assert token.item() == int(np.argmax(np.float32(logits)))
    assert log_prob.item() == pytest.approx(rows.log_softmax(-1).max().item(), abs=1e-6)


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(1.0, 0.9, 2, 0.1)])
def test_logits_that_are_not_numbers_show_in_the_log_probability(sampling: Sampling) -> None:
    rows = torch.tensor([[0.0, 1.0, torch.nan, 2.0], [0.0, 1.0, 1.0, 2.0]])
    tokens, log_probs = draw(rows, sampling, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert torch.isnan(log_probs).tolist() == [True, False]
    assert bool(((tokens >= 0) & (tokens < 4)).all())
