"""Line charts as inline SVG: no script, no font, no network; values appear on hovering a point.

Colours are CSS variables of the page, so one drawing serves the light and the dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from opsd_cli.formatting import count

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
#: How many times longer the longest line must be than the shortest for a logarithmic axis.
UNEVEN = 4


@dataclass(frozen=True)
class Series:
    """One line: its name, colour (a CSS value), points, and an interval for each, if any."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    marked: int | None = None


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that span a range."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, within a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (digit * 10.0**power for power in powers for digit in (1, 2, 5))
    return [tick for tick in ticks if low <= tick <= high]


def linear_until(ends: Sequence[Sequence[float]]) -> float | None:
    """Where an axis that several lines share should turn logarithmic; None: nowhere.

    Lines of very different length cannot be read side by side otherwise. The start, at 0, stays in
    the picture: up to the smallest positive value the axis is linear.
    """
    positive = [[x for x in xs if x > 0] for xs in ends]
    longest = [max(xs) for xs in positive if xs]
    if not longest or max(longest) < UNEVEN * min(longest):
        return None
    return min(x for xs in positive for x in xs)


def axis_position(x: float, bend: float | None) -> float:
    """Where a value stands on an axis that is linear up to `bend` and logarithmic beyond it."""
    if bend is None:
        return x
    return x / bend if x <= bend else 1 + math.log10(x / bend)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    percent: bool = False,
    level: float | None = None,
    bend: float | None = None,
) -> str:
    """The chart, with a dashed line at `level`; or a sentence where there is nothing to draw.

    With `bend`, x is linear up to there and logarithmic beyond (`linear_until`).
    """
    points = [point for line in series for point in line.points]
    if not points:
        return "<p class=dim>nothing to draw yet</p>"
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [edge for line in series for band in line.band for edge in band]
    if level is not None:
        ys.append(level)
    x_low, x_high = min(0.0, *xs), max(xs) or 1.0
    y_low, y_high = _padded(min(ys), max(ys))
    if min(ys) >= 0:
        y_low = max(0.0, y_low)
    if percent:
        y_high = min(1.0, y_high)

    def place(x: float, y: float) -> tuple[float, float]:
        start = axis_position(x_low, bend)
        across = (axis_position(x, bend) - start) / ((axis_position(x_high, bend) - start) or 1.0)
        up = (y - y_low) / ((y_high - y_low) or 1.0)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    def written(y: float) -> str:
        return f"{100 * y:.0f}%" if percent else f"{y:.3g}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for tick in nice_ticks(y_low, y_high):
        _, y = place(x_low, tick)
        parts.append(f"<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1={y} y2={y} />")
        parts.append(
            f"<text class=tick x={LEFT - 6} y={y + 4} text-anchor=end>{written(tick)}</text>"
        )
    x_ticks = nice_ticks(x_low, x_high, 5) if bend is None else [0.0, *log_ticks(bend, x_high)]
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(
            f"<text class=tick x={x} y={HEIGHT - 18} text-anchor=middle>{count(tick)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f"<text class=tick x={middle} y={HEIGHT - 3} text-anchor=middle>{escape(x_label)}</text>"
    )
    if level is not None:
        _, y = place(x_low, level)
        parts.append(
            f"<line class=level x1={LEFT} x2={WIDTH - RIGHT} y1={y} y2={y} />"
            f"<text class=tick x={WIDTH - RIGHT} y={y - 4} text-anchor=end>{written(level)}</text>"
        )
    for line in series:
        placed = [place(*point) for point in line.points]
        if line.band:
            lows = [place(x, band[0]) for (x, _), band in zip(line.points, line.band, strict=True)]
            highs = [place(x, band[1]) for (x, _), band in zip(line.points, line.band, strict=True)]
            outline = " ".join(f"{x},{y}" for x, y in [*highs, *reversed(lows)])
            parts.append(f'<polygon points="{outline}" fill="{line.colour}" opacity=0.15 />')
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(
            f'<polyline points="{path}" fill=none stroke="{line.colour}" stroke-width=2 />'
        )
        for index, ((x, y), (value_x, value_y)) in enumerate(zip(placed, line.points, strict=True)):
            radius = 6 if index == line.marked else 3
            said = f"{line.name}: {written(value_y)} at {count(value_x)} {x_label}"
            parts.append(
                f'<circle cx={x} cy={y} r={radius} fill="{line.colour}">'
                f"<title>{escape(said)}</title></circle>"
            )
    legend = "".join(
        f'<span><i style="background:{line.colour}"></i>{escape(line.name)}</span>'
        for line in series
    )
    return "".join(parts) + f"</svg><p class=legend>{legend}</p>"


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room
