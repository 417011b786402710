"""Line charts as inline SVG, without scripts, fonts or network access; points have tooltips.

Colours are CSS variables of the page, so that one chart serves the light and the dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from opsd_cli.formatting import count

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
#: Least ratio of the longest to the shortest series for which the x axis becomes logarithmic.
UNEVEN = 4


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: label in the legend.
        colour: a CSS value.
        points: (x, y) pairs in order of x.
        band: (low, high) of y at each point; empty for none.
        marked: index of a point drawn larger.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    marked: int | None = None


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


@dataclass(frozen=True)
class _Axes:
    """The mapping from data to SVG coordinates, and how values of y are written."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    bend: float | None
    percent: bool

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point in SVG units, rounded to a tenth."""
        start = axis_position(self.x_low, self.bend)
        width = (axis_position(self.x_high, self.bend) - start) or 1.0
        across = (axis_position(x, self.bend) - start) / width
        up = (y - self.y_low) / ((self.y_high - self.y_low) or 1.0)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    def written(self, y: float) -> str:
        return f"{100 * y:.0f}%" if self.percent else f"{y:.3g}"


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    percent: bool = False,
    level: float | None = None,
    bend: float | None = None,
) -> str:
    """A line chart as an SVG element with a legend; a sentence if no series has a point.

    Args:
        percent: y is a share, labelled in percent and limited to 100%.
        level: a dashed horizontal line at this y.
        bend: x is linear up to this value and logarithmic above it (`linear_until`).
    """
    if not any(line.points for line in series):
        return "<p class=dim>nothing to draw yet</p>"
    axes = _axes(series, percent, level, bend)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    parts += _grid(axes, x_label)
    if level is not None:
        parts.append(_level(axes, level))
    for line in series:
        parts += _line(axes, line, x_label)
    legend = "".join(
        f'<span><i style="background:{line.colour}"></i>{escape(line.name)}</span>'
        for line in series
    )
    return "".join(parts) + f"</svg><p class=legend>{legend}</p>"


def _axes(
    series: Sequence[Series], percent: bool, level: float | None, bend: float | None
) -> _Axes:
    """Axes that hold every point, every interval and the level."""
    points = [point for line in series for point in line.points]
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [edge for line in series for band in line.band for edge in band]
    if level is not None:
        ys.append(level)
    y_low, y_high = _padded(min(ys), max(ys))
    if min(ys) >= 0:
        y_low = max(0.0, y_low)
    if percent:
        y_high = min(1.0, y_high)
    return _Axes(min(0.0, *xs), max(xs) or 1.0, y_low, y_high, bend, percent)


def _grid(axes: _Axes, x_label: str) -> list[str]:
    """Horizontal grid lines, the ticks of both axes, and the label of x."""
    parts = []
    for tick in nice_ticks(axes.y_low, axes.y_high):
        _, y = axes.place(axes.x_low, tick)
        parts.append(f"<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1={y} y2={y} />")
        parts.append(
            f"<text class=tick x={LEFT - 6} y={y + 4} text-anchor=end>{axes.written(tick)}</text>"
        )
    if axes.bend is None:
        # Steps and tokens are counted: a tick between two of them would have one's label again.
        x_ticks = [tick for tick in nice_ticks(axes.x_low, axes.x_high, 5) if tick == round(tick)]
    else:
        x_ticks = [0.0, *log_ticks(axes.bend, axes.x_high)]
    for tick in x_ticks:
        x, _ = axes.place(tick, axes.y_low)
        parts.append(
            f"<text class=tick x={x} y={HEIGHT - 18} text-anchor=middle>{count(tick)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f"<text class=tick x={middle} y={HEIGHT - 3} text-anchor=middle>{escape(x_label)}</text>"
    )
    return parts


def _level(axes: _Axes, level: float) -> str:
    """A dashed horizontal line with its value."""
    _, y = axes.place(axes.x_low, level)
    return (
        f"<line class=level x1={LEFT} x2={WIDTH - RIGHT} y1={y} y2={y} />"
        f"<text class=tick x={WIDTH - RIGHT} y={y - 4} text-anchor=end>{axes.written(level)}</text>"
    )


def _line(axes: _Axes, line: Series, x_label: str) -> list[str]:
    """One series: its interval as a band, the line, and a circle with a tooltip at each point."""
    parts = []
    placed = [axes.place(*point) for point in line.points]
    if line.band:
        edges = list(zip(line.points, line.band, strict=True))
        lows = [axes.place(x, band[0]) for (x, _), band in edges]
        highs = [axes.place(x, band[1]) for (x, _), band in edges]
        outline = " ".join(f"{x},{y}" for x, y in [*highs, *reversed(lows)])
        parts.append(f'<polygon points="{outline}" fill="{line.colour}" opacity=0.15 />')
    path = " ".join(f"{x},{y}" for x, y in placed)
    parts.append(f'<polyline points="{path}" fill=none stroke="{line.colour}" stroke-width=2 />')
    for index, ((x, y), (value_x, value_y)) in enumerate(zip(placed, line.points, strict=True)):
        radius = 6 if index == line.marked else 3
        tooltip = f"{line.name}: {axes.written(value_y)} at {count(value_x)} {x_label}"
        parts.append(
            f'<circle cx={x} cy={y} r={radius} fill="{line.colour}">'
            f"<title>{escape(tooltip)}</title></circle>"
        )
    return parts


def _padded(low: float, high: float) -> tuple[float, float]:
    """A range with a margin of 6% on either side."""
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room
