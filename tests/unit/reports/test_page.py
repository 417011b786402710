"""The frame of reports: headings by rank, and tables in narrow windows."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from opsd_cli.reports.comparison_report import what_was_compared
from opsd_cli.reports.page import STYLE, table


def test_heading_of_a_lower_rank_is_smaller() -> None:
    sizes = [re.search(rf"{rank}\{{font-size:([\d.]+)rem", STYLE) for rank in ("h1", "h2", "h3")]
    first, second, third = (float(found[1]) for found in sizes if found is not None)
    assert first > second > third


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
