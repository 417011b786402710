"""Axes of charts and plots: ticks, their labels, and the scale of costs that differ much."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Least ratio of the longest to the shortest series for which the x axis becomes logarithmic.
UNEVEN = 4


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` round numbers within a range, for an axis."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range, for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (digit * 10.0**power for power in powers for digit in (1, 2, 5))
    return [tick for tick in ticks if low <= tick <= high]


def tick_label(tick: float) -> str:
    """A tick's label with all of its digits, as in "0.2", "250", "12.5k" or "1M".

    Ticks are round numbers, so no two of an axis have the same label.
    """
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(tick) >= size:
            return f"{tick / size:.6g}{suffix}"
    return f"{tick:.6g}"


def linear_until(ends: Sequence[Sequence[float]]) -> float | None:
    """The value above which an x axis shared by several series should be logarithmic; or None.

    Series of very different length cannot be read on one linear axis. Below the smallest positive
    value the axis stays linear, so that 0 is on it.

    Args:
        ends: the x values of each series.
    """
    positive = [[x for x in xs if x > 0] for xs in ends]
    longest = [max(xs) for xs in positive if xs]
    if not longest or max(longest) < UNEVEN * min(longest):
        return None
    return min(x for xs in positive for x in xs)


def axis_position(x: float, bend: float | None) -> float:
    """Position on an axis that is linear up to `bend` and logarithmic above it."""
    if bend is None:
        return x
    return x / bend if x <= bend else 1 + math.log10(x / bend)
