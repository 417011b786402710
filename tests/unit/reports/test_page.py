"""The frame of reports: headings by rank, and tables in narrow windows."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from opsd_cli.reports.chart import Series, line_chart
from opsd_cli.reports.comparison_report import what_was_compared
from opsd_cli.reports.page import STYLE, figure, html_page, named_model, table
from tests.support.pages import accessibility_faults


def test_heading_of_a_lower_rank_is_smaller() -> None:
    sizes = [re.search(rf"{rank}\{{font-size:([\d.]+)rem", STYLE) for rank in ("h1", "h2", "h3")]
    first, second, third = (float(found[1]) for found in sizes if found is not None)
    assert first > second > third


def test_page_with_charts_and_tables_is_read_by_screen_reader_and_keyboard() -> None:
    series = [Series("opsd", "red", [(0, 0.1), (5, 0.4)]), Series("grpo", "blue", [(0, 0.1)])]
    chart = figure("accuracy", line_chart(series, "tokens", "accuracy", percent=True))
    page = html_page("a page", ["<h1>A</h1><h2>B</h2>", chart, table(("", "gain"), [("a", "1")])])
    assert accessibility_faults(page) == []
    assert 'aria-label="accuracy against tokens"' in page
    bad = "<html><h2>B</h2><svg></svg><img><div tabindex=0></div><table><tr><th><td>1</table>"
    assert len(accessibility_faults(bad)) == 10


def test_table_keeps_an_interval_on_one_line_and_breaks_sentences() -> None:
    sentence = "sampled in training – and in the teacher's analyses"
    made = table(("split", "accuracy"), [("base", "100.0% (100.0–100.0)"), ("best", sentence)])
    assert "<td>base<td class=nowrap>100.0% (100.0–100.0)" in made
    assert "<td>best<td>sampled in training" in made


@pytest.mark.parametrize(("seeds", "said"), [([3], ", seed 3, "), ([3, 4], ", seeds 3, 4, ")])
def test_comparison_page_names_its_seeds(seeds: list[int], said: str) -> None:
    summary: dict[str, Any] = {
        "methods": {"opsd": {}, "grpo": {}}, "seeds": seeds, "test_problems": 20,
        "target_from": "given", "left_out": {},
    }  # fmt: skip
    curve: Any = SimpleNamespace(config=SimpleNamespace(model="embedded"))
    assert said in what_was_compared(summary, {"opsd": [curve]})


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("/home/me/kit/model", "the model kit/model"), ("./model", "the model model"),
        ("org/name", "org/name"), ("embedded", "the embedded model"),
        (None, "the model"),
    ],
)  # fmt: skip
def test_a_page_names_a_models_folder_so_that_it_reads_as_one(
    model: str | None, named: str
) -> None:
    assert named_model(model) == named
