"""Sampling filters, and sampling a token from the filtered distribution.

The filters run in the order that `Sampling` documents, each on the renormalised outcome of the one
before: temperature, top-k, top-p, min-p. Ties go to the lower token id, which bfloat16 logits make
common enough to matter. A token is found by inverting the cumulative sum in order of token id, so
it depends on its own row's logits and its own uniform number and on nothing else in the batch.

Sorting a vocabulary of 150,000 at every token is slow. Top-k leaves so few that sorting those is
free, and only top-p without top-k sorts everything. Cumulative sums are in float64: in float32
those of a large vocabulary are off by more than the probabilities of its rarer tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.interface import Sampling


def draw(logits_BV: Tensor, sampling: Sampling, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one token per row.

    Args:
        logits_BV: float32; an impossible token is -inf.
        sampling: the filters; at temperature 0 the most probable token is taken.
        uniform_B: float64 in [0, 1), one per row.

    Returns:
        Token ids [B], and the log-probability of each under the distribution it was sampled from,
        float32 [B] (at temperature 0: under the plain distribution). NaN logits give NaN.
    """
    if sampling.temperature == 0:
        top_B1 = logits_BV.amax(-1, keepdim=True)
        # argmax may return any of several equal entries.
        ids_V = torch.arange(logits_BV.shape[-1], device=logits_BV.device)
        tokens_B = torch.where(logits_BV == top_B1, ids_V, ids_V[-1]).amin(-1)
        return tokens_B, (top_B1[:, 0] - logits_BV.logsumexp(-1))
    ids_BK, weights_BK = filtered_weights(logits_BV, sampling)
    cumulative_BK = weights_BK.cumsum(-1, dtype=torch.float64)
    total_B1 = cumulative_BK[:, -1:].contiguous()
    target_B1 = total_B1 * uniform_B[:, None]
    # The product can round up to the total itself; the last token with any weight then stands.
    index_B1 = torch.minimum(
        torch.searchsorted(cumulative_BK, target_B1, right=True),
        torch.searchsorted(cumulative_BK, total_B1),
    ).clamp_(max=weights_BK.shape[-1] - 1)
    weight_B1 = weights_BK.gather(-1, index_B1).double()
    log_probs_B = (weight_B1.log() - total_B1.log())[:, 0].float()
    tokens_B1 = index_B1 if ids_BK is None else ids_BK.gather(-1, index_B1)
    return tokens_B1[:, 0], log_probs_B


def log_probs(logits_BV: Tensor, sampling: Sampling, tokens_B: Tensor) -> Tensor:
    """Log-probabilities that `draw` gives these tokens, float32 [B].

    Args:
        logits_BV: float32.
        sampling: `temperature` must not be 0. A token that a filter drops gets -inf.
        tokens_B: one per row.
    """
    ids_BK, weights_BK = filtered_weights(logits_BV, sampling)
    total_B = weights_BK.sum(-1, dtype=torch.float64)
    if ids_BK is None:
        weight_B = weights_BK.gather(-1, tokens_B[:, None])[:, 0]
    else:
        weight_B = (weights_BK * (ids_BK == tokens_B[:, None])).sum(-1)
    return (weight_B.double().log() - total_B.log()).float()


def filtered_weights(logits_BV: Tensor, sampling: Sampling) -> tuple[Tensor | None, Tensor]:
    """The filtered, tempered distribution, up to a factor; `temperature` must not be 0.

    Returns:
        Candidate ids [B, K] in ascending order (None: all of the vocabulary, K = V), and the
        weight of each [B, K], zero where a filter dropped it.
    """
    scaled_BK = logits_BV / sampling.temperature
    ids_BK = None
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        ids_BK = _top_k(scaled_BK, sampling.top_k)
        scaled_BK = scaled_BK.gather(-1, ids_BK)
    weights_BK = scaled_BK.softmax(-1)
    kept_BK = torch.ones_like(weights_BK, dtype=torch.bool)
    if sampling.top_p < 1:
        ordered_BK, order_BK = weights_BK.sort(dim=-1, descending=True, stable=True)
        before_BK = ordered_BK.cumsum(-1, dtype=torch.float64) - ordered_BK
        kept_BK.scatter_(-1, order_BK, before_BK < sampling.top_p)
    if sampling.min_p > 0:
        kept_BK &= weights_BK >= sampling.min_p * weights_BK.amax(-1, keepdim=True)
    return ids_BK, weights_BK * kept_BK


def _top_k(scores_BV: Tensor, k: int) -> Tensor:
    """Ids [B, k] of the k largest, ascending; `torch.topk` may take any of equal values."""
    values_BK, ids_BK = scores_BV.topk(k + 1)
    if bool((values_BK[:, k] < values_BK[:, k - 1]).all()):
        return ids_BK[:, :k].sort(-1).values
    least_B1 = values_BK[:, k - 1 : k]
    above_BV = scores_BV > least_B1
    tied_BV = scores_BV == least_B1
    room_B1 = k - above_BV.sum(-1, keepdim=True)
    chosen_BV = above_BV | (tied_BV & (tied_BV.cumsum(-1) <= room_B1))
    if bool((chosen_BV.sum(-1) != k).any()):  # NaN compares with nothing
        return ids_BK[:, :k].sort(-1).values
    return chosen_BV.nonzero()[:, 1].view(-1, k)
