"""How much each token of a completion weighs in the loss of opsd (`divergence.weigh`).

The divergence of token n of N is multiplied by v_n / mean(v), so that the mean weight is 1 and the
step's size stays comparable; where all v are 0, all weights are 1. The weights are constants: no
gradient flows through them. s is `divergence.weigh_by`; 0 makes all weights 1.

    position  v_n = 1 + s (1 - 2 x_n)                    x_n = (n - 1/2) / N
    late      v_n = 1 - s + s sigmoid((x_n - 0.3) / 0.1)
    gap       v_n = sigmoid(s d_n)                       d_n = log p_T(y_n) - log p_S(y_n)
    entropy   v_n = H_n^s                                H_n the student's entropy, nats
    drift     v_n = 1 + s (1 - c_n / c)                  c_n = sum |d_i| over i < n, c over all i

Sources, and how they were read:

- *position* is ours, after a finding of IW-OPD (arXiv 2606.22600, abstract): the first 30% of the
  tokens teach about as much as all of them, the last 30% hardly anything.
- *late* is the opposite, PW-OPSD (arXiv 2605.21606): with a privileged teacher, late tokens were
  found to be the reliable ones. The formula is that of its code (SaFo-Lab/PW-OPSD), whose lowest
  weight 0.25 is 1 - s at s = 0.75, and which does not divide by the mean.
- *gap* is the gate of SDAR (arXiv 2605.15155), as projects that use it describe it, with their
  beta of 5; its own code was not read. There it multiplies the log-ratio of the sampled token.
- *entropy* is ours, after TIP (arXiv 2604.14084), which keeps the half of the tokens with a high
  student entropy, and arXiv 2506.01939, which trains on the fifth with the highest ("forking
  tokens"). A power weighs them instead of leaving the others out. Neither formula was read.
- *drift* is IW-OPD's weight, as TRL implements its algorithm 1 (trl.experimental.iw_opd, gamma
  0.5), which does not divide by the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: Centre and width of PW-OPSD's sigmoid, as shares of the completion.
CENTRE, WIDTH = 0.30, 0.10


@dataclass(frozen=True)
class TokenScores:
    """What a weighing may read of one completion.

    Attributes:
        count: N, its tokens.
        gap_N: log p_T - log p_S of each token, in nats; empty where it is not read.
        entropy_N: the student's entropy at each token, in nats; empty where it is not read.
    """

    count: int
    gap_N: np.ndarray
    entropy_N: np.ndarray


@dataclass(frozen=True)
class Weighing:
    """A way to weigh tokens.

    Attributes:
        weights: given the scores and the strength, N numbers of at least 0, not divided by their
            mean yet; None weighs nothing.
        reads: the scores that it needs.
        strength: `divergence.weigh_by` where it is not set.
        most: the greatest strength.
    """

    weights: Callable[[TokenScores, float], np.ndarray] | None
    reads: Literal["", "gap", "entropy"] = ""
    strength: float = 0.0
    most: float = 1e3


def _places(count: int) -> np.ndarray:
    """The middle of each token as a share of the completion, float64 [N]."""
    return (np.arange(count) + 0.5) / max(1, count)


def _sigmoid(x_N: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x_N)))


def _position(scores: TokenScores, strength: float) -> np.ndarray:
    return 1 + strength * (1 - 2 * _places(scores.count))


def _late(scores: TokenScores, strength: float) -> np.ndarray:
    return 1 - strength + strength * _sigmoid((_places(scores.count) - CENTRE) / WIDTH)


def _gap(scores: TokenScores, strength: float) -> np.ndarray:
    return _sigmoid(strength * scores.gap_N)


def _entropy(scores: TokenScores, strength: float) -> np.ndarray:
    return np.asarray(np.maximum(scores.entropy_N, 0.0) ** strength)


def _drift(scores: TokenScores, strength: float) -> np.ndarray:
    apart_N = np.abs(scores.gap_N)
    before_N = np.cumsum(apart_N) - apart_N
    return np.asarray(1 + strength * (1 - before_N / max(float(apart_N.sum()), 1e-8)))


WEIGHINGS: dict[str, Weighing] = {
    "none": Weighing(None),
    "position": Weighing(_position, strength=1.0, most=1.0),
    "late": Weighing(_late, strength=0.75, most=1.0),
    "gap": Weighing(_gap, "gap", strength=5.0),
    "entropy": Weighing(_entropy, "entropy", strength=1.0),
    "drift": Weighing(_drift, "gap", strength=0.5),
}
"""The values of `divergence.weigh`. A new one is one entry: config and method read this table."""

_NOTHING = np.zeros(0)


def token_weights(
    name: str,
    strength: float | None,
    count: int,
    gap_N: np.ndarray = _NOTHING,
    entropy_N: np.ndarray = _NOTHING,
) -> np.ndarray:
    """The weights of one completion's tokens, mean 1, float64 [N].

    Args:
        name: a name of `WEIGHINGS`.
        strength: `divergence.weigh_by`; None for the weighing's own.
        count: N.
        gap_N: log p_T - log p_S of each token, in nats, where the weighing reads it. A token to
            which both give probability 0 counts as no gap.
        entropy_N: the student's entropy, in nats, where the weighing reads it.
    """
    weighing = WEIGHINGS[name]
    if weighing.weights is None or not count:
        return np.ones(count)
    gap_N = np.nan_to_num(np.asarray(gap_N, np.float64), nan=0.0, posinf=1e6, neginf=-1e6)
    scores = TokenScores(count, gap_N, np.asarray(entropy_N, np.float64))
    values_N = weighing.weights(scores, weighing.strength if strength is None else strength)
    mean = float(values_N.mean())
    return values_N / mean if mean > 0 else np.ones(count)
