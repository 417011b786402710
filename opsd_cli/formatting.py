"""How numbers are written: one format for the terminal, the pages, the pictures and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsd_cli.statistics import Estimate


def percent(estimate: Estimate) -> str:
    """As in "52.3% (48.1–56.4)"."""
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:.1f}% ({low:.1f}–{high:.1f})"


def points(difference: Estimate) -> str:
    """A difference of accuracies, as in "+3.2 points (-1.0 to +7.4)"."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def count(number: float) -> str:
    """A count to three digits: 940, 12.3k, 1.05M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """As in "48 s", "3:05" or "2:03:05"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def json_safe(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not have, as None; tuples as lists."""
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
