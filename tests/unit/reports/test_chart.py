"""Charts: points, axes and the labels of their ticks."""

from __future__ import annotations

import re

import pytest

from opsd_cli.reports.chart import MOST_TAB_STOPS, Series, line_chart
from opsd_cli.reports.page import STYLE
from opsd_cli.reports.scales import linear_until, nice_ticks, tick_label


def labels(drawn: str, axis: str) -> list[str]:
    return re.findall(rf'class="tick {axis}[^>]*>([^<]+)<', drawn)


@pytest.mark.parametrize("last", [1, 2, 3, 8, 1500])
def test_chart_has_no_label_twice_on_its_axis_of_steps(last: int) -> None:
    series = Series("loss", "red", [(1.0, 0.2), (float(last), 0.1)])
    found = labels(line_chart([series], "step", "loss"), "x")
    assert len(found) == len(set(found)) > 1
    assert all("." not in label for label in found if not label.endswith("k"))


@pytest.mark.parametrize("scale", [1e-3, 0.2, 0.7, 1.0, 3.0, 1234.5, 1e6])
@pytest.mark.parametrize("uneven", [False, True])
def test_chart_tick_labels_have_enough_digits_for_every_cost(scale: float, uneven: bool) -> None:
    lines = [
        Series(name, "red", [(0.0, 0.2), (0.37 * end, 0.3), (end, 0.4)])
        for name, end in (("a", scale), ("b", 50 * scale if uneven else 1.1 * scale))
    ]
    bend = linear_until([[x for x, _ in line.points] for line in lines])
    assert (bend is not None) == uneven
    found = labels(line_chart(lines, "CPU seconds", "accuracy", True, bend=bend), "x")
    assert len(found) == len(set(found)) > 2


def test_tick_label_keeps_every_digit() -> None:
    ticks = (0, 0.2, 0.1 + 0.2, 2.5, 1250, 12500, 1e6)
    assert [tick_label(tick) for tick in ticks] == [
        "0", "0.2", "0.3", "2.5", "1.25k", "12.5k", "1M",
    ]  # fmt: skip


def test_chart_of_shares_reaches_from_0_to_100_percent() -> None:
    series = Series("a", "red", [(0, 0.4), (1, 0.5)], [(0.3, 0.5), (0.4, 0.6)])
    drawn = line_chart([series], "step", "accuracy", percent=True)
    assert labels(drawn, "y") == ["0%", "25%", "50%", "75%", "100%"]


def test_chart_has_every_point_with_its_interval() -> None:
    line = Series("a", "red", [(0, 1), (1, 3), (2, 2)], [(0, 2), (2, 4), (1, 3)])
    drawn = line_chart([line], "step", "y")
    assert drawn.count("<i></i>") == 3 and "<b>a: 3 (2–4) at step 1</b>" in drawn
    assert "<tr><td>1<td>3 (2–4)" in drawn
    assert "nothing to draw" in line_chart([Series("a", "red", [])], "x", "y")
    assert "<i></i>" in line_chart([Series("a", "red", [(0, 0)])], "x", "y")


@pytest.mark.parametrize("points", [MOST_TAB_STOPS, MOST_TAB_STOPS + 1])
def test_chart_points_can_be_focused_and_many_are_no_tab_stops(points: int) -> None:
    drawn = line_chart([Series("a", "red", [(float(n), 0.5) for n in range(points)])], "step", "y")
    reached = points if points <= MOST_TAB_STOPS else 0
    assert drawn.count("tabindex=0 style") == reached
    assert drawn.count("tabindex=-1 style") == points - reached
    assert ".point:focus b{visibility:visible}" in STYLE


def test_chart_without_a_line_draws_intervals_and_points_alone() -> None:
    points, band = [(0, 0.5), (1, 0.6)], [(0.4, 0.6), (0.5, 0.7)]
    joined = line_chart([Series("a", "red", points, band)], "step", "y")
    apart = line_chart([Series("a", "red", points, band, joined=False)], "step", "y")
    assert "<polyline" in joined and "<polyline" not in apart
    assert apart.count("<i></i>") == 2 and re.search(r'<path class=span d="M[^"]+V[^"]+M', apart)


def test_chart_text_is_outside_of_what_is_stretched() -> None:
    """Text inside an SVG that fills the page's width shrinks with it."""
    drawn = line_chart([Series("a", "red", [(0, 1), (1, 2)])], "step", "y", level=1.5)
    assert "<text" not in drawn and ".tick{position:absolute;font-size:12px" in STYLE


def test_chart_ticks_are_round_numbers_within_the_range() -> None:
    assert nice_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1.0]
    assert nice_ticks(0, 97000, 5) == [0, 20000, 40000, 60000, 80000]
    assert nice_ticks(3, 3) == [3]
