"""Sampling filters, and sampling a token from the filtered distribution, on MLX.

The same definition as on PyTorch, because a seed must name the same completion on either: filters
in the order that `Sampling` documents, each on the renormalised outcome of the one before, ties to
the lower id, and a token found by inverting the cumulative sum in order of id. (mlx-lm's own
sampler applies top-p and min-p before the temperature, and keeps other tokens.)

MLX has float64 on the CPU alone, and a float32 cumulative sum over a large vocabulary is off by
more than its rarer tokens weigh. So the sum is made in two levels: blocks in float32 on the device,
then in float64 on the host over the sums of the blocks, and inside the one block that holds the
token.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from backends.interface import Sampling

BLOCK = 1024
"""Tokens summed at once on the device."""


def draw(
    logits_BV: mx.array, sampling: Sampling, uniform_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sample one token per row.

    Args:
        logits_BV: float32; an impossible token is -inf.
        sampling: the filters; at temperature 0 the most probable token is taken.
        uniform_B: float64 in [0, 1), one per row.

    Returns:
        Token ids, int64 [B], and the log-probability of each under the distribution it was sampled
        from, float32 [B] (at temperature 0: under the plain distribution). NaN logits give NaN.
    """
    if sampling.temperature == 0:
        top_B1 = logits_BV.max(axis=-1, keepdims=True)
        tokens_B = _lowest_id(logits_BV == top_B1)
        log_probs_B = top_B1[:, 0] - mx.logsumexp(logits_BV, axis=-1)
        return np.array(tokens_B).astype(np.int64), np.array(log_probs_B, np.float32)
    weights_BV = filtered_weights(logits_BV, sampling)
    return _invert(weights_BV, uniform_B)


def log_probs(logits_BV: mx.array, sampling: Sampling, tokens_B: mx.array) -> mx.array:
    """Log-probabilities that `draw` gives these tokens, float32 [B].

    Args:
        logits_BV: float32.
        sampling: `temperature` must not be 0. A token that a filter drops gets -inf.
        tokens_B: one per row.
    """
    weights_BV = filtered_weights(logits_BV, sampling)
    weight_B = mx.take_along_axis(weights_BV, tokens_B[:, None], axis=-1)[:, 0]
    return mx.log(weight_B) - mx.log(weights_BV.sum(axis=-1))


def filtered_weights(logits_BV: mx.array, sampling: Sampling) -> mx.array:
    """The filtered, tempered distribution, up to a factor: zero where a filter dropped a token.

    `temperature` must not be 0.
    """
    # NaN must not be filtered away: it is how a broken model shows.
    scaled_BV = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        cut_B1 = _sorted(scaled_BV)[:, sampling.top_k - 1 : sampling.top_k]
        chosen_BV = _first(scaled_BV, cut_B1, mx.full(cut_B1.shape, sampling.top_k))
        scaled_BV = mx.where(chosen_BV | mx.isnan(scaled_BV), scaled_BV, -mx.inf)
    weights_BV = mx.softmax(scaled_BV, axis=-1, precise=True)
    kept_BV = mx.ones(weights_BV.shape, mx.bool_)
    if sampling.top_p < 1:
        ordered_BV = _sorted(weights_BV)
        before_BV = mx.cumsum(ordered_BV, axis=-1) - ordered_BV
        count_B1 = (before_BV < sampling.top_p).sum(axis=-1, keepdims=True)
        cut_B1 = mx.take_along_axis(ordered_BV, count_B1 - 1, axis=-1)
        kept_BV = _first(weights_BV, cut_B1, count_B1)
    if sampling.min_p > 0:
        floor_B1 = sampling.min_p * weights_BV.max(axis=-1, keepdims=True)
        kept_BV = kept_BV & (weights_BV >= floor_B1)
    return mx.where(kept_BV | mx.isnan(weights_BV), weights_BV, 0.0)


def _sorted(x_BV: mx.array) -> mx.array:
    """Rows from large to small."""
    return -mx.sort(-x_BV, axis=-1)


def _first(x_BV: mx.array, cut_B1: mx.array, count_B1: mx.array) -> mx.array:
    """True at the `count` largest of each row, `cut` being the least; ties to the lower id."""
    above_BV = x_BV > cut_B1
    tied_BV = x_BV == cut_B1
    room_B1 = count_B1 - above_BV.sum(axis=-1, keepdims=True)
    return above_BV | (tied_BV & (mx.cumsum(tied_BV.astype(mx.int32), axis=-1) <= room_B1))


def _lowest_id(marked_BV: mx.array) -> mx.array:
    """The first marked column of each row; the last column where none is."""
    last = marked_BV.shape[-1] - 1
    ids_V = mx.arange(marked_BV.shape[-1])
    return mx.where(marked_BV, ids_V, last).min(axis=-1)


def _invert(weights_BV: mx.array, uniform_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The token at which each row's cumulative sum passes its uniform number."""
    rows, vocabulary = weights_BV.shape
    blocks = -(-vocabulary // BLOCK)
    if blocks * BLOCK > vocabulary:
        weights_BV = mx.pad(weights_BV, [(0, 0), (0, blocks * BLOCK - vocabulary)])
    weights_BKC = weights_BV.reshape(rows, blocks, BLOCK)
    sums_BK = np.array(weights_BKC.sum(axis=-1), np.float64)
    cumulative_BK = sums_BK.cumsum(axis=-1)
    target_B = cumulative_BK[:, -1] * uniform_B
    block_B = _passes(cumulative_BK, target_B)
    inside_BC = np.array(weights_BKC[mx.arange(rows), mx.array(block_B)], np.float64)
    row_B = np.arange(rows)
    before_B = cumulative_BK[row_B, block_B] - sums_BK[row_B, block_B]
    index_B = _passes(inside_BC.cumsum(axis=-1), target_B - before_B)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_probs_B = np.log(inside_BC[row_B, index_B]) - np.log(cumulative_BK[:, -1])
    return block_B * BLOCK + index_B, log_probs_B.astype(np.float32)


def _passes(cumulative_BK: np.ndarray, target_B: np.ndarray) -> np.ndarray:
    """The first column above each row's target; rounding aside, never one without weight."""
    first_B = (cumulative_BK <= target_B[:, None]).sum(axis=-1)
    last_B = (cumulative_BK < cumulative_BK[:, -1:]).sum(axis=-1)
    return np.minimum(first_B, last_B)
