"""The pages agree with the benchmark results, and their links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import tables


def test_measured_table_is_made_from_the_benchmark_results() -> None:
    page = tables.PAGE.read_text()
    assert tables.summed_up(page) == page, "run: python -m benchmarks.tables"
    for called in tables.SUMMED_UP.values():
        assert f"| [{called}](" in page


PAGES = [tables.ROOT / "README.md", *sorted((tables.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_readme_links_to_every_page() -> None:
    """So that a reader who begins there finds all of them."""
    found = set(re.findall(r"\]\((docs/[^)#]+\.md)", PAGES[0].read_text()))
    assert found == {f"docs/{page.name}" for page in PAGES[1:]}
