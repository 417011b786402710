"""The clipped policy-gradient surrogate with KL penalty: per-token value and slope in log p.

One body gives both in every namespace that `opsd_cli.losses.array_ops` has; NumPy in float64 is
the reference. Notation: p is the probability that the policy gives a sampled token now, p_old when
the token was sampled, p_0 under the initial policy; A is the token's advantage.

                     value                                 slope = d value / d log p
    surrogate        -A log p                              -A                no p_old
    clipped          -min(r A, clip(r) A)                  -r A, or 0 where clip(r) A < r A
    KL penalty       kl (p_0/p - log(p_0/p) - 1)           kl (1 - p_0/p)

with r = p / p_old and clip(r) = min(max(r, 1 - clip_low), 1 + clip_high). This is the loss of GRPO
(arXiv 2402.03300, equation 3, penalty of its equation 4); a clip_high above clip_low is DAPO's
(arXiv 2503.14476). The penalty is an unbiased, non-negative estimate of KL(p || p_0) from one
token.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from opsd_cli.losses.array_ops import Array, array_ops


@dataclass(frozen=True)
class SurrogateResult:
    """Value and slope of N tokens.

    Attributes:
        value_N: the loss of each token, before any weight; nats times advantage.
        slope_N: d (weight * value) / d log p.
        clipped_N: 1.0 where the clip made the slope zero, else 0.0; all zeros without old
            log-probabilities.
    """

    value_N: Array
    slope_N: Array
    clipped_N: Array


def surrogate(
    log_p_N: Array,
    advantages_N: Array,
    xp: ModuleType,
    *,
    weights_N: Array | float = 1.0,
    old_log_p_N: Array | None = None,
    initial_log_p_N: Array | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl: float = 0.0,
) -> SurrogateResult:
    """Value and slope of the surrogate at each token.

    No gradient is recorded by autograd: the slope returned is the whole derivative. The inputs are
    left as they are.

    Args:
        log_p_N: log-probability of each sampled token now, nats.
        advantages_N: the advantage of each token.
        xp: the namespace of the arrays: numpy, torch or mlx.core.
        weights_N: factor of each token in the loss; it scales the slope alone.
        old_log_p_N: log-probabilities under the weights that sampled the tokens; None leaves ratio
            and clip out.
        initial_log_p_N: log-probabilities under the initial policy; required where `kl` is not 0.
        clip_low: how far the ratio may fall below 1.
        clip_high: how far the ratio may rise above 1.
        kl: coefficient of the penalty; 0 leaves it out.

    Returns:
        Arrays [N] of `xp`, float64 if the log-probabilities are and float32 otherwise.

    Raises:
        ValueError: `kl` is not 0 and there are no initial log-probabilities.
        TypeError: `xp` is not one of the three.
    """
    ops = array_ops(xp)
    log_p_N = ops.floating(log_p_N)
    weighted_N = -advantages_N * weights_N
    if old_log_p_N is None:
        value_N = -advantages_N * log_p_N
        slope_N = weighted_N
        clipped_N = ops.zeros_like(log_p_N)
    else:
        ratio_N = ops.exp(log_p_N - old_log_p_N)
        # A sum makes a copy: the bounds may overwrite what they are given.
        bounded_N = ops.at_most_(ops.at_least_(ratio_N + 0.0, 1 - clip_low), 1 + clip_high)
        free_N, capped_N = ratio_N * advantages_N, bounded_N * advantages_N
        value_N = -xp.minimum(free_N, capped_N)
        unclipped_N = ops.not_above(free_N, capped_N)
        slope_N = weighted_N * ratio_N * unclipped_N
        clipped_N = 1 - unclipped_N
    if kl:
        if initial_log_p_N is None:
            raise ValueError("a KL penalty needs the initial policy's log-probabilities")
        gap_N = initial_log_p_N - log_p_N
        odds_N = ops.exp(gap_N)
        value_N = value_N + kl * (odds_N - gap_N - 1)
        slope_N = slope_N + (weights_N * kl - weights_N * kl * odds_N)
    return SurrogateResult(value_N, slope_N, clipped_N)
