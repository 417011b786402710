"""Rows of logits as distributions, over the array operations that all namespaces have.

Everything is computed in float32 at least. Logarithms are floored at `LOG_FLOOR`, so that a masked
token (a logit of -inf) gives 0 * finite.
"""

from __future__ import annotations

import math

from opsd_cli.losses.array_ops import Array, ArrayOps

LOG_FLOOR = -1e6
"""Least log-probability that differs from zero probability: far below exp's underflow, far above
float32's overflow."""

SMALLEST = 1e-37
"""A probability below every one that counts, and still a normal float32."""

_NO_MASS = -1e30
"""Stands for the logit of an outcome of probability zero; finite, unlike -inf."""


def log_softmax(logits_NV: Array, temperature: float, ops: ArrayOps) -> tuple[Array, Array]:
    """Log-probabilities and probabilities of each row, for one exponential an entry.

    Args:
        logits_NV: before temperature; left as it is.
        temperature: divides the logits.
        ops: the operations of the array's namespace.

    Returns:
        Log-probabilities, none below `LOG_FLOOR`, and probabilities, both [N, V] and new.
    """
    logits_NV = ops.floating(logits_NV)
    log_p_NV = logits_NV - ops.row_max(logits_NV)
    if temperature != 1.0:
        log_p_NV *= 1.0 / temperature
    p_NV = ops.exp(log_p_NV)
    total_N1 = ops.row_sum(p_NV)
    ops.materialize(p_NV, total_N1)
    p_NV *= 1.0 / total_N1
    log_p_NV -= ops.log_(total_N1)
    log_p_NV = ops.at_least_(log_p_NV, LOG_FLOOR)
    ops.materialize(log_p_NV, p_NV)
    return log_p_NV, p_NV


def tail(
    logits_NV: Array, kept_NK: Array, temperature: float, ops: ArrayOps
) -> tuple[Array, Array, Array]:
    """Logit of the tokens that were not kept, taken together as one outcome.

    Summed directly rather than as 1 minus the kept mass, which loses the tail when it is small.

    Args:
        logits_NV: before temperature; left as it is.
        kept_NK: ids of the kept tokens.
        temperature: divides the logits.
        ops: the operations of the array's namespace.

    Returns:
        The tail's logit [N, 1]; its tokens' unnormalised probabilities [N, V], zero at the kept
        ones; and the sum [N, 1] of these.
    """
    rest_NV = ops.floating(logits_NV) / temperature
    rest_NV = ops.put_(rest_NV, kept_NK, -math.inf)
    top_N1 = ops.at_least_(ops.row_max(rest_NV), _NO_MASS)
    rest_NV -= top_N1
    rest_NV = ops.exp_(rest_NV)
    total_N1 = ops.at_least_(ops.row_sum(rest_NV), SMALLEST)
    return top_N1 + ops.log_(total_N1 + 0.0), rest_NV, total_N1
