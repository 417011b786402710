"""Means over seeds and problems with intervals, and how many more seeds would tell two arms apart.

Two arms are trained with the same S seeds and measured on the same P problems. The difference on
seed s and problem p is modelled with crossed random effects, because runs vary between seeds, and
a change helps some problems more than others:

    d_sp = d + a_s + b_p + e_sp      Var(mean) = Va/S + Vb/P + Ve/(S P)

With the mean squares MSa, MSb and MSe of the two-way table (Cornfield and Tukey 1956), the variance
of the mean is estimated as (MSa + MSb - MSe) / (S P); a component that would be negative counts as
0. Its degrees of freedom are Satterthwaite's (1946), rounded down, and the interval is mean ± t·SE.
It is about other seeds and other problems. With few seeds it is wide where runs differ much, as it
must be: three runs say little about how runs vary. A bootstrap over three seeds is too narrow.

One seed says nothing about the variance between seeds: its interval is of the problems alone.

The variance is at least that of one problem in each direction, 2/(P+2)², so that arms without any
observed variation do not get an interval of width 0 (Bonett and Price 2012 add the same two).

More seeds: with S' seeds the variance is expected to be Va/S' + Vb/P + Ve/(S' P). The number that
would tell is the smallest S' with |d| >= (t(1 - level/2) + t(0.8)) · SE(S'), which finds a true
difference of the observed size in four of five repetitions. It is a rough number: the observed
difference and variances are estimates themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from opsd_cli.statistics import CONFIDENCE, Estimate
from opsd_cli.student_t import student_t_p_value, student_t_quantile

#: Probability with which the number of seeds finds a difference of the observed size.
POWER = 0.8
#: No larger number of seeds is searched for.
MOST_SEEDS = 1000


@dataclass(frozen=True)
class CrossedMean:
    """A mean over S seeds and P problems, with the variances that it was measured with.

    Attributes:
        value: the mean.
        seeds, problems: S and P.
        between_seeds: Va, None with one seed.
        between_problems: Vb; with one seed Vb + Ve.
        rest: Ve; 0 with one seed.
    """

    value: float
    seeds: int
    problems: int
    between_seeds: float | None
    between_problems: float
    rest: float

    def variance(self, seeds: int | None = None) -> float:
        """The variance of the mean with so many seeds; by default those that there are."""
        s, p = seeds or self.seeds, self.problems
        found = (self.between_seeds or 0.0) / s + self.between_problems / p + self.rest / (s * p)
        return max(found, 2.0 / (p + 2) ** 2)

    def degrees(self, seeds: int | None = None) -> int:
        """Satterthwaite's degrees of freedom of that variance, rounded down; at least 1."""
        s, p = seeds or self.seeds, self.problems
        if s == 1 or p == 1:
            return max(1, s * p - 1)
        between_seeds, rest = self.between_seeds or 0.0, self.rest
        mean_squares = [
            (rest + p * between_seeds, s - 1, between_seeds > 0),
            (rest + s * self.between_problems, p - 1, self.between_problems > 0),
        ]
        terms = [(square, degrees) for square, degrees, counts in mean_squares if counts]
        terms.append(((1 - len(terms)) * rest, (s - 1) * (p - 1)))
        total = sum(square for square, _ in terms)
        spread = sum(square**2 / degrees for square, degrees in terms)
        return max(1, int(total**2 / spread)) if spread > 0 else p - 1

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that the mean is 0."""
        if self.problems * self.seeds == 1:
            return 1.0
        return student_t_p_value(self.value / math.sqrt(self.variance()), self.degrees())

    def estimate(self, low: float = -1.0, high: float = 1.0) -> Estimate:
        """The mean with its 95% interval, cut at the ends of its range."""
        if self.problems * self.seeds == 1:
            return Estimate(self.value, low, high)
        t = student_t_quantile((1.0 + CONFIDENCE) / 2, self.degrees())
        half = t * math.sqrt(self.variance())
        return Estimate(self.value, max(low, self.value - half), min(high, self.value + half))

    def detectable(self, level: float = 1.0 - CONFIDENCE, seeds: int | None = None) -> float:
        """The smallest true difference that so many seeds find with `POWER`."""
        degrees = self.degrees(seeds)
        t = student_t_quantile(1.0 - level / 2, degrees) + student_t_quantile(POWER, degrees)
        return t * math.sqrt(self.variance(seeds))

    def seeds_needed(self, level: float = 1.0 - CONFIDENCE) -> int | None:
        """The number of seeds that would tell a difference of the observed size from 0.

        Args:
            level: of the two-sided test.

        Returns:
            More than `seeds`; None with one seed, or if the problems are too few for any number.
        """
        if self.between_seeds is None:
            return None
        # The normal distribution's quantiles are below Student's and cost nothing: without them a
        # comparison of six arms took half a minute here.
        least = NormalDist().inv_cdf(1.0 - level / 2) + NormalDist().inv_cdf(POWER)
        enough = (
            seeds
            for seeds in range(self.seeds + 1, MOST_SEEDS + 1)
            if abs(self.value) >= least * math.sqrt(self.variance(seeds))
            and abs(self.value) >= self.detectable(level, seeds)
        )
        return next(enough, None)


def crossed_mean(value_SP: ArrayLike) -> CrossedMean:
    """The mean of values [S, P] over seeds and problems, with its variance components."""
    value_SP = np.asarray(value_SP, np.float64)
    seeds, problems = value_SP.shape
    mean = float(value_SP.mean())
    seed_S, problem_P = value_SP.mean(axis=1), value_SP.mean(axis=0)
    if seeds == 1:
        between = float(problem_P.var(ddof=1)) if problems > 1 else 0.0
        return CrossedMean(mean, 1, problems, None, between, 0.0)
    if problems == 1:
        return CrossedMean(mean, seeds, 1, float(seed_S.var(ddof=1)), 0.0, 0.0)
    left_SP = value_SP - seed_S[:, None] - problem_P[None] + mean
    rest = float((left_SP**2).sum()) / ((seeds - 1) * (problems - 1))
    of_seeds = max(0.0, float(seed_S.var(ddof=1)) - rest / problems)
    of_problems = max(0.0, float(problem_P.var(ddof=1)) - rest / seeds)
    return CrossedMean(mean, seeds, problems, of_seeds, of_problems, rest)


def seed_mean(value_S: Sequence[float]) -> dict[str, float | None]:
    """The mean of one value a run, with its 95% t interval; without limits for one run."""
    values = np.asarray(value_S, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return {"value": mean, "low": None, "high": None}
    t = student_t_quantile((1.0 + CONFIDENCE) / 2, len(values) - 1)
    half = t * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {"value": mean, "low": mean - half, "high": mean + half}


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below 5% where a comparison is significant among all of them.

    The probability of one false verdict among K comparisons stays below 5%, however they depend on
    each other (Holm 1979). The smallest is multiplied by K, the next by K - 1, and so on; none is
    below one before it.
    """
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
