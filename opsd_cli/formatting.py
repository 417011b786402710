"""How numbers are written: one format for the terminal, the pages, the pictures and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsd_cli.statistics import Estimate


def share(value: float) -> str:
    """A share without its interval, as in "52.3%"."""
    return f"{value:.1%}"


def percent(estimate: Estimate) -> str:
    """A share with its 95% interval, as in "52.3% (48.1–56.4)"."""
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:.1f}% ({low:.1f}–{high:.1f})"


def score(estimate: Estimate) -> str:
    """A mean score with its 95% interval, as in "0.523 (0.481–0.564)"."""
    return f"{estimate.value:.3f} ({estimate.low:.3f}–{estimate.high:.3f})"


def score_change(difference: Mapping[str, float]) -> str:
    """A difference of mean scores with its interval, as in "+0.031 (-0.002 to +0.064)"."""
    value, low, high = (f"{difference[key]:+.3f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def nats(estimate: Estimate) -> str:
    """Nats a token with their 95% interval, as in "0.5230 (0.4810 to 0.5640)".

    One problem has no interval.
    """
    digits = 4 if abs(estimate.value) < 1 else 3
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return value if estimate.low == estimate.high else f"{value} ({low} to {high})"


def points(difference: Estimate) -> str:
    """A difference of accuracies with its interval, as in "+3.2 points (-1.0 to +7.4)"."""
    value, low, high = (signed(x) for x in (difference.value, difference.low, difference.high))
    return f"{value} points ({low} to {high})"


def signed(difference: float) -> str:
    """A difference of shares in percentage points, as in "+3.2"."""
    return f"{100 * difference:+.1f}"


def strict_and_flexible(strict: Estimate, flexible: Estimate) -> str:
    """Two accuracies by extraction, as in "strict 41.0% · flexible 52.5%: format explains ..."."""
    both = f"strict {share(strict.value)} · flexible {share(flexible.value)}"
    gap = 100 * (flexible.value - strict.value)
    return f"{both}: format explains {gap:.1f} points"


def gain_by_part(gain: float, flexible_gain: float) -> str:
    """A difference of accuracies as its two parts, both shares in points."""
    format_gain = signed(gain - flexible_gain)
    return f"{signed(flexible_gain)} points with flexible extraction, {format_gain} from format"


def times(ratio: float | None) -> str:
    """A ratio, as in "8.3×"; "∞" for infinity, "unknown" for None and NaN."""
    if ratio is None or math.isnan(ratio):
        return "unknown"
    return "∞" if math.isinf(ratio) else f"{ratio:.3g}×"


def gibibytes(size: int) -> str:
    """A size in bytes, as in "1.25 GiB"."""
    return f"{size / 2**30:.2f} GiB"


def count(number: float) -> str:
    """A count to three significant digits, as in "940", "12.3k" or "1.05M"."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.0f}"


def numbered(number: int, noun: str) -> str:
    """A number with its noun, as in "1 problem" or "2,000 problems"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration in seconds, as in "48 s", "3:05" (minutes) or "2:03:05" (hours)."""
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
