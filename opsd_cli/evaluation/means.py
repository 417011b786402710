"""Means over problems of numbers that are no shares, with their 95% intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from opsd_cli.statistics import CONFIDENCE, Estimate
from opsd_cli.student_t import student_t_quantile


def mean_of_problems(value_P: ArrayLike, weight_P: ArrayLike | None = None) -> Estimate:
    """The weighted mean of per-problem values of any size, with its interval mean ± t·SE.

    With weights it is a ratio of two totals over problems, whose variance is that of its linear
    approximation. One problem has no interval: both limits are the value.

    Args:
        value_P: numbers [P], at least one.
        weight_P: not negative, with a positive sum; by default all equal.
    """
    values_P = np.asarray(value_P, np.float64)
    weights_P = np.ones_like(values_P) if weight_P is None else np.asarray(weight_P, np.float64)
    problems = len(values_P)
    mean = float(weights_P @ values_P / weights_P.sum())
    if problems == 1:
        return Estimate(mean, mean, mean)
    residual_P = weights_P * (values_P - mean) / weights_P.mean()
    error = math.sqrt(float(residual_P @ residual_P) / (problems - 1) / problems)
    half = student_t_quantile((1.0 + CONFIDENCE) / 2, problems - 1) * error
    return Estimate(mean, mean - half, mean + half)
