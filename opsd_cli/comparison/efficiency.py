"""Cost to reach a target accuracy, and the ratio of two methods' costs, with bootstrap intervals.

A method's learning curve is its accuracy, averaged over seeds and problems, against its mean cost.
The cost at the target is interpolated linearly on a monotone fit of that curve: isotonic least
squares up to the curve's maximum and constant afterwards, so that neither one lucky evaluation nor
a later collapse changes it. A running maximum is no substitute: it turns noise on a plateau into
slow progress, which favours the faster method of a ratio.

The target is the lowest of the methods' best accuracies. Of three methods or more, one that does
not improve on the base model does not determine it: the target would be the base model's accuracy,
which takes no tokens, and no two methods would have a ratio.

Intervals are percentile intervals of a paired bootstrap: each replicate resamples seeds and
problems with replacement, the same for every method, and repeats the whole computation, that of the
target included. Which methods determine the target is decided once, from all replicates, so that
every replicate estimates the same quantity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsd_cli.comparison.curves import COSTS, Curve
from opsd_cli.errors import UsageError

#: Bootstrap replicates.
REPLICATES = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """The other method's cost at the target over the better method's, with its interval.

    Attributes:
        value: the ratio; infinite if only the other method does not reach the target, 0 if only the
            better one does not, NaN if neither does.
        low: 2.5% quantile of the bootstrap.
        high: 97.5% quantile of the bootstrap.
        counted: kind of cost, a key of `COSTS`.
    """

    value: float
    low: float
    high: float
    counted: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def monotone(y_E: Array) -> Array:
    """Isotonic least-squares fit of y up to its maximum, constant from there on.

    Pool adjacent violators: neighbouring blocks are merged into their mean until the block means
    increase.
    """
    peak = int(np.argmax(y_E))
    blocks: list[list[float]] = []  # (mean, number of evaluations)
    for value in y_E[: peak + 1]:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, count = blocks.pop()
            before = blocks[-1]
            total = before[1] + count
            before[0] = (before[0] * before[1] + mean * count) / total
            before[1] = total
    fitted = np.concatenate([np.full(int(count), mean) for mean, count in blocks])
    return np.concatenate([fitted, np.full(len(y_E) - peak - 1, fitted[-1])])


def cost_to_reach(target: float, cost_E: Array, fitted_E: Array) -> float:
    """The cost at which a monotone curve first reaches a target, by linear interpolation.

    Args:
        target: an accuracy.
        cost_E: cost at each of E evaluations, increasing.
        fitted_E: accuracy at each evaluation, as `monotone` returns it.

    Returns:
        The cost; infinity if the curve stays below the target.
    """
    reached = np.flatnonzero(fitted_E >= target - 1e-12)
    if not len(reached):
        return math.inf
    at = int(reached[0])
    if at == 0:
        return float(cost_E[0])
    low, high = fitted_E[at - 1], fitted_E[at]
    share = (target - low) / (high - low)
    return float(cost_E[at - 1] + share * (cost_E[at] - cost_E[at - 1]))


class Method:
    """The curves of one method as arrays: S seeds, E evaluations, P problems.

    Runs with fewer evaluations than the others shorten all to their number.
    """

    def __init__(self, name: str, curves: Sequence[Curve]) -> None:
        self.name = name
        self.curves = list(curves)
        points = min(len(curve.steps) for curve in curves)
        self.steps = curves[0].steps[:points]
        self.cost_SE = {
            cost: np.stack([curve.cost_E[cost][:points] for curve in curves]) for cost in COSTS
        }
        self.correct_SEP = np.stack([curve.correct_EP[:points] for curve in curves])

    def curve(self, seeds_S: Array, problems_P: Array, cost: str) -> tuple[Array, Array]:
        """Weighted mean cost and accuracy at each evaluation.

        Args:
            seeds_S: weight of each seed, summing to 1.
            problems_P: weight of each problem.
            cost: kind of cost, a key of `COSTS`.

        Returns:
            Cost [E] and accuracy [E].
        """
        accuracy_E = np.einsum("s,sep,p->e", seeds_S, self.correct_SEP, problems_P)
        return seeds_S @ self.cost_SE[cost], accuracy_E / (seeds_S.sum() * problems_P.sum())


class Efficiency:
    """Estimates from several methods' curves; all of them use the same bootstrap replicates.

    Args:
        groups: curves by method, of the same P problems.
        target: the target accuracy; None takes the lowest of the methods' best accuracies, without
            those of `never_improved`.
        replicates: number of bootstrap replicates.
        seed: of the bootstrap's random generator.

    Raises:
        UsageError: fewer than two methods, or a target that the base model already reaches.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Curve]],
        target: float | None = None,
        replicates: int = REPLICATES,
        seed: int = 0,
    ) -> None:
        if len(groups) < 2:
            raise UsageError("there is only one method to compare", "name runs of two methods")
        self.methods = {name: Method(name, curves) for name, curves in groups.items()}
        self.given_target = target
        base = max(float(m.correct_SEP[:, 0].mean()) for m in self.methods.values())
        if target is not None and target <= base:
            raise UsageError(
                f"the base model already reaches {base:.1%}, so {target:.1%} takes no tokens",
                "give a --target above that",
            )
        self.draws = list(self._draw(replicates, np.random.default_rng(seed)))
        self.never_improved = self._never_improved() if target is None else ()

    def _draw(self, replicates: int, random: np.random.Generator) -> Any:
        """Bootstrap weights for each replicate: of each method's seeds, and of the problems.

        Methods with the same seeds get the same resample of them, which pairs their runs.
        """
        problems = next(iter(self.methods.values())).correct_SEP.shape[2]
        for _ in range(replicates):
            by_seeds: dict[tuple[int, ...], Array] = {}
            weights = {}
            for name, method in self.methods.items():
                seeds = tuple(curve.seed for curve in method.curves)
                if seeds not in by_seeds:
                    by_seeds[seeds] = _resample(len(seeds), random)
                weights[name] = by_seeds[seeds]
            yield weights, _resample(problems, random)

    def _never_improved(self) -> tuple[str, ...]:
        """The methods that do not determine the target, because they do not improve on the base.

        A method improves if, at one of its evaluations, its accuracy exceeds that before training
        by more than chance: the lower end of the one-sided bootstrap interval of the difference is
        above 0, at a level of 2.5% divided by the number of evaluations (Bonferroni). Without that,
        the highest of several noisy evaluations of an unchanged model would count as improvement.

        Returns:
            Their names; empty if fewer than two methods improve, since a ratio needs two.
        """
        if len(self.methods) < 3:
            return ()
        flat = tuple(name for name in self.methods if not self._improves(name))
        return flat if len(self.methods) - len(flat) >= 2 else ()

    def _improves(self, name: str) -> bool:
        accuracy_RE = self._replicated_accuracy(name)
        gain_RE = accuracy_RE[:, 1:] - accuracy_RE[:, :1]
        if not gain_RE.size:
            return False
        level = 0.025 / gain_RE.shape[1]
        return bool((np.quantile(gain_RE, level, axis=0, method="lower") > 0).any())

    def _replicated_accuracy(self, name: str) -> Array:
        """A method's accuracy in each of R bootstrap replicates at each evaluation, [R, E]."""
        return np.array(
            [
                self.methods[name].curve(weights[name], problems_P, "all")[1]
                for weights, problems_P in self.draws
            ]
        )

    def _even(self) -> tuple[dict[str, Array], Array]:
        """Equal weights of all seeds and problems: those of the point estimate."""
        methods = self.methods
        problems = next(iter(methods.values())).correct_SEP.shape[2]
        return {n: np.ones(len(m.curves)) / len(m.curves) for n, m in methods.items()}, np.ones(
            problems
        )

    def _costs(
        self, weights: Mapping[str, Array], problems_P: Array, cost: str
    ) -> tuple[float, dict[str, float]]:
        """The target accuracy and each method's cost there, for one set of weights."""
        found = {}
        for name, method in self.methods.items():
            x_E, y_E = method.curve(weights[name], problems_P, cost)
            found[name] = (x_E, monotone(y_E))
        target = self.given_target
        if target is None:
            target = min(
                float(fitted[-1])
                for name, (_, fitted) in found.items()
                if name not in self.never_improved
            )
        return target, {name: cost_to_reach(target, x, y) for name, (x, y) in found.items()}

    @property
    def target(self) -> float:
        """The target accuracy."""
        return self._costs(*self._even(), "generated")[0]

    @property
    def weakest(self) -> str:
        """The method whose best accuracy is lowest, of those that determine the target."""
        return min(
            (name for name in self.methods if name not in self.never_improved), key=self.best
        )

    def best(self, name: str) -> float:
        """The maximum of a method's monotone curve."""
        weights, problems_P = self._even()
        return float(monotone(self.methods[name].curve(weights[name], problems_P, "all")[1])[-1])

    def mean_curve(self, name: str, cost: str) -> tuple[Array, Array]:
        """Mean cost and accuracy at each evaluation."""
        weights, problems_P = self._even()
        return self.methods[name].curve(weights[name], problems_P, cost)

    def band(self, name: str) -> Array:
        """Pointwise 95% bootstrap interval of a method's accuracy at each evaluation, [E, 2]."""
        return np.quantile(self._replicated_accuracy(name), [0.025, 0.975], axis=0).T

    def to_target(self, cost: str = "generated") -> dict[str, float]:
        """Each method's cost at the target; infinite if it does not reach it."""
        return self._costs(*self._even(), cost)[1]

    def ratio(self, one: str, other: str, cost: str = "generated") -> Ratio:
        """The cost of `other` over the cost of `one` at the target, with its bootstrap interval."""
        value = _quotient(self.to_target(cost), one, other)
        drawn = [
            _quotient(self._costs(weights, problems_P, cost)[1], one, other)
            for weights, problems_P in self.draws
        ]
        known = np.array([ratio for ratio in drawn if not math.isnan(ratio)])
        if math.isnan(value) or not len(known):
            return Ratio(math.nan, math.nan, math.nan, cost)
        # "lower" and "higher" take existing values: interpolating next to infinity gives NaN.
        low = float(np.quantile(known, 0.025, method="lower"))
        high = float(np.quantile(known, 0.975, method="higher"))
        return Ratio(value, min(low, value), max(high, value), cost)

    def difference(self, one: str, other: str) -> tuple[float, float, float]:
        """Best accuracy of `one` minus that of `other`.

        Returns:
            The difference and its 95% bootstrap interval: (value, low, high).
        """

        def gap(weights: Mapping[str, Array], problems_P: Array) -> float:
            best = [
                monotone(self.methods[name].curve(weights[name], problems_P, "all")[1])[-1]
                for name in (one, other)
            ]
            return float(best[0] - best[1])

        drawn = [gap(*draw) for draw in self.draws]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return gap(*self._even()), float(low), float(high)


def _resample(count: int, random: np.random.Generator) -> Array:
    """Bootstrap weights: how often each of `count` items is drawn, divided by `count`."""
    drawn = np.bincount(random.integers(0, count, count), minlength=count)
    return drawn / count


def _quotient(costs: Mapping[str, float], one: str, other: str) -> float:
    """costs[other] / costs[one]; 0 if only `one` is infinite, NaN if both are or `one` is 0."""
    if math.isinf(costs[one]):
        return math.nan if math.isinf(costs[other]) else 0.0
    if costs[one] <= 0:
        return math.nan
    return costs[other] / costs[one]
