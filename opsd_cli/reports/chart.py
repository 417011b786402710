"""Line charts as HTML and inline SVG, without scripts, fonts or network access.

Lines and bands are SVG that is stretched to the width of the page; ticks, labels and points are
HTML on top of it, so that text has the same size in a wide and in a narrow window. A point shows
its value when it is pointed at, tapped or focused; a table below the chart has all values.

Colours are CSS variables of the page, so that one chart serves the light and the dark scheme.
Series also differ in their dashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from opsd_cli.reports.page import scrolled
from opsd_cli.reports.scales import axis_position, log_ticks, nice_ticks, tick_label

#: Width and height of the SVG's own coordinates; the page stretches them to the plot.
SIZE = 1000
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "1 4", "12 4")
#: Above this number of points in a chart the tab key skips them: the table has the values.
MOST_TAB_STOPS = 24
#: More ticks of x than this do not fit on a narrow page.
MOST_TICKS = 6
#: Above this number of points a series has small ones.
MANY_POINTS = 30


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: label in the legend.
        colour: a CSS value.
        points: (x, y) pairs in order of x.
        band: (low, high) of y at each point; empty for none.
        marked: index of a point drawn larger.
        joined: whether a line joins the points; without one each has a vertical line as interval.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    marked: int | None = None
    joined: bool = True

    def interval(self, index: int) -> tuple[float, float] | None:
        """(low, high) of y at a point; None without intervals."""
        return self.band[index] if self.band else None


@dataclass(frozen=True)
class _Axes:
    """The mapping from data to shares of the plot's width and height, and how y is written."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    bend: float | None
    percent: bool
    whole: bool

    def across(self, x: float) -> float:
        """Position from the left edge, from 0 to 1."""
        start = axis_position(self.x_low, self.bend)
        width = (axis_position(self.x_high, self.bend) - start) or 1.0
        return (axis_position(x, self.bend) - start) / width

    def up(self, y: float) -> float:
        """Position from the lower edge, from 0 to 1."""
        return (y - self.y_low) / ((self.y_high - self.y_low) or 1.0)

    def place(self, x: float, y: float) -> str:
        """A point in SVG coordinates, as in "500,250"."""
        return f"{SIZE * self.across(x):.1f},{SIZE * (1 - self.up(y)):.1f}"

    def value(self, y: float, interval: tuple[float, float] | None = None) -> str:
        """A value with its interval, as in "52.3% (48.1–56.4)" or "0.125"."""
        if not self.percent:
            between = "" if interval is None else f" ({interval[0]:.3g}–{interval[1]:.3g})"
            return f"{y:.3g}{between}"
        between = "" if interval is None else f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
        return f"{100 * y:.1f}%{between}"

    def tick(self, y: float) -> str:
        return f"{tick_label(100 * y)}%" if self.percent else tick_label(y)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    percent: bool = False,
    level: float | None = None,
    bend: float | None = None,
) -> str:
    """A line chart with a legend and a table of its values; a sentence if no series has a point.

    Args:
        percent: y is a share; the axis reaches from 0 to 100%.
        level: a dashed horizontal line at this y.
        bend: x is linear up to this value and logarithmic above it (`linear_until`).
    """
    if not any(line.points for line in series):
        return "<p class=dim>nothing to draw yet</p>"
    axes = _axes(series, percent, level, bend)
    drawn = [line for line in series if line.points]
    lines = "".join(_line(axes, line, _dash(series, line)) for line in drawn)
    stops = sum(len(line.points) for line in drawn) <= MOST_TAB_STOPS
    points = "".join(_points(axes, line, x_label, stops) for line in drawn)
    legend = "".join(
        f'<span><svg class=key aria-hidden=true><line x1=0 x2=24 y1=6 y2=6 stroke="{line.colour}" '
        f'stroke-dasharray="{_dash(series, line)}" /></svg>{escape(line.name)}</span>'
        for line in drawn
    )
    label = f"{y_label} against {x_label}"
    return (
        f'<div class=chart role=group aria-label="{escape(label)}"><div class=plot>'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio=none aria-hidden=true>'
        f"{_grid(axes, level)}{lines}</svg>{_ticks(axes, level)}{points}</div>"
        f"<p class=axis>{escape(x_label)}</p>"
        f"<p class=legend>{legend}</p>{_table(axes, drawn, x_label)}</div>"
    )


def _dash(series: Sequence[Series], line: Series) -> str:
    return DASHES[series.index(line) % len(DASHES)] if line.joined else "none"


def _axes(
    series: Sequence[Series], percent: bool, level: float | None, bend: float | None
) -> _Axes:
    """Axes that hold every point, every interval and the level."""
    points = [point for line in series for point in line.points]
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [edge for line in series for band in line.band for edge in band]
    if level is not None:
        ys.append(level)
    y_low, y_high = (0.0, 1.0) if percent else _padded(min(ys), max(ys))
    if min(ys) >= 0:
        y_low = max(0.0, y_low)
    whole = all(x == round(x) for x in xs)
    return _Axes(min(0.0, *xs), max(xs) or 1.0, y_low, y_high, bend, percent, whole)


def _x_ticks(axes: _Axes) -> list[float]:
    if axes.bend is not None:
        return [0.0, *log_ticks(axes.bend, axes.x_high)]
    ticks = nice_ticks(axes.x_low, axes.x_high, 5)
    # There is nothing between two steps.
    return [tick for tick in ticks if tick == round(tick)] if axes.whole else ticks


def _grid(axes: _Axes, level: float | None) -> str:
    """Horizontal grid lines and the level."""
    heights = [("grid", tick) for tick in nice_ticks(axes.y_low, axes.y_high)]
    heights += [("level", level)] if level is not None else []
    places = [(name, f"{SIZE * (1 - axes.up(y)):.1f}") for name, y in heights]
    return "".join(f"<line class={name} x1=0 x2={SIZE} y1={y} y2={y} />" for name, y in places)


def _ticks(axes: _Axes, level: float | None) -> str:
    """The labels of both axes and of the level."""
    parts = [
        f'<span class="tick y" style="bottom:{100 * axes.up(tick):.2f}%">{axes.tick(tick)}</span>'
        for tick in nice_ticks(axes.y_low, axes.y_high)
    ]
    across = _x_ticks(axes)
    for tick in across:
        # On a narrow page a long logarithmic axis has room for powers of ten alone.
        power = axes.bend is None or f"{tick:e}"[0] in "01"
        often = " often" if len(across) > MOST_TICKS and not power else ""
        parts.append(
            f'<span class="tick x{often}" style="left:{100 * axes.across(tick):.2f}%">'
            f"{tick_label(tick)}</span>"
        )
    if level is not None:
        parts.append(
            f'<span class="tick at" style="bottom:{100 * axes.up(level):.2f}%">'
            f"target {axes.value(level)}</span>"
        )
    return "".join(parts)


def _line(axes: _Axes, line: Series, dash: str) -> str:
    """One series: its interval as a band with edges, and its line; or vertical intervals."""
    paint = f'stroke="{line.colour}"'
    edges = list(zip(line.points, line.band, strict=True)) if line.band else []
    if not line.joined:
        spans = (
            f"M{axes.place(x, low)}V{axes.place(x, high).partition(',')[2]}"
            for (x, _), (low, high) in edges
        )
        return f'<path class=span d="{"".join(spans)}" {paint} />' if edges else ""
    parts = []
    if edges:
        lows = [axes.place(x, low) for (x, _), (low, _) in edges]
        highs = [axes.place(x, high) for (x, _), (_, high) in edges]
        outline = " ".join([*highs, *reversed(lows)])
        parts.append(f'<polygon class=band points="{outline}" fill="{line.colour}" />')
        parts += [
            f'<polyline class=edge points="{" ".join(edge)}" {paint} stroke-dasharray="{dash}" />'
            for edge in (lows, highs)
        ]
    path = " ".join(axes.place(x, y) for x, y in line.points)
    parts.append(f'<polyline points="{path}" {paint} stroke-width=2 stroke-dasharray="{dash}" />')
    return "".join(parts)


def _points(axes: _Axes, line: Series, x_label: str, stops: bool) -> str:
    """A focusable element for each point, which shows its value below the plot."""
    parts = []
    for index, (x, y) in enumerate(line.points):
        size = "marked" if index == line.marked else ""
        if not size and len(line.points) > MANY_POINTS:
            size = "small"
        where = f"step {number(x)}" if x_label == "step" else f"{number(x)} {x_label}"
        text = f"{line.name}: {axes.value(y, line.interval(index))} at {where}"
        parts.append(
            f'<span class="point {size}" tabindex={0 if stops else -1} '
            f'style="--x:{100 * axes.across(x):.2f}%;--y:{100 * axes.up(y):.2f}%;'
            f'--c:{line.colour}"><i></i><b>{escape(text)}</b></span>'
        )
    return "".join(parts)


def number(x: float) -> str:
    """A value of x in full, as in "12,345" or "0.125"."""
    return f"{x:,.0f}" if x == round(x) or abs(x) >= 1e4 else f"{x:,.4g}"


def _table(axes: _Axes, series: Sequence[Series], x_label: str) -> str:
    """All values of the chart, folded: a row for each x, a column for each series."""
    cells: dict[float, dict[int, str]] = {}
    for column, line in enumerate(series):
        for index, (x, y) in enumerate(line.points):
            cells.setdefault(x, {})[column] = axes.value(y, line.interval(index))
    rows = "".join(
        f"<tr><td>{number(x)}"
        + "".join(f"<td>{found.get(column, '')}" for column in range(len(series)))
        for x, found in sorted(cells.items())
    )
    values = scrolled((x_label, *(line.name for line in series)), rows)
    return f"<details class=values><summary>values</summary>{values}</details>"


def _padded(low: float, high: float) -> tuple[float, float]:
    """A range with a margin of 6% on either side."""
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room
