"""Charts: the labels of their axes."""

from __future__ import annotations

import re

import pytest

from opsd_cli.reports.svg import Series, line_chart


@pytest.mark.parametrize("last", [1, 2, 3, 8, 1500])
def test_chart_has_no_label_twice_on_its_axis_of_steps(last: int) -> None:
    series = Series("loss", "red", [(1.0, 0.2), (float(last), 0.1)])
    drawn = line_chart([series], "step", "loss")
    labels = re.findall(r"text-anchor=middle>([^<]+)</text>", drawn)
    assert labels[-1] == "step" and len(labels) == len(set(labels)) > 2
