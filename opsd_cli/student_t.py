"""Student's t distribution: its quantiles and p-values, for whole degrees of freedom."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, with a relative error of about 1e-10.

    For whole degrees of freedom the distribution is a finite sum in the angle arctan(t/√degrees)
    (Abramowitz and Stegun 26.7.3 and 26.7.4); the angle is found by bisection.

    Args:
        probability: strictly between 0 and 1.
        degrees: degrees of freedom, at least 1.
    """
    if not 0.0 < probability < 1.0 or degrees < 1:
        raise ValueError(f"no t quantile at {probability} with {degrees} degrees of freedom")
    central = abs(2.0 * probability - 1.0)
    within = _within(degrees)
    low, high = 0.0, math.pi / 2
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < central else (low, middle)
    return math.copysign(math.sqrt(degrees) * math.tan((low + high) / 2), probability - 0.5)


def student_t_p_value(t: float, degrees: int) -> float:
    """The two-sided p-value of a t statistic: the probability of one at least as far from 0."""
    return max(0.0, 1.0 - _within(degrees)(math.atan(abs(t) / math.sqrt(degrees))))


def _within(degrees: int) -> Callable[[float], float]:
    """The probability that |t| stays within √degrees · tan(angle), as a function of the angle."""
    odd = degrees % 2
    # Coefficients of cos^(2j+odd), j = 0, 1, ...: each the last times (2j-1+odd) / (2j+odd).
    steps = np.arange(1, (degrees - odd) // 2)
    terms = np.concatenate([[1.0], np.cumprod((2 * steps - 1 + odd) / (2 * steps + odd))])
    powers = np.arange(len(terms)) * 2 + odd

    def within(angle: float) -> float:
        if degrees == 1:
            return 2.0 * angle / math.pi
        series = math.sin(angle) * float(terms @ np.cos(angle) ** powers)
        return 2.0 / math.pi * (angle + series) if odd else series

    return within
