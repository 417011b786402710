"""README agrees with the benchmark results, and its links exist."""

from __future__ import annotations

import re

from benchmarks import tables


def test_readme_table_is_made_from_the_benchmark_results() -> None:
    readme = tables.README.read_text()
    assert tables.summed_up(readme) == readme, "run: python -m benchmarks.tables"
    for called in tables.SUMMED_UP.values():
        assert f"| [{called}](" in readme


def test_readme_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", tables.README.read_text())
    missing = [link for link in links if "://" not in link and not (tables.ROOT / link).exists()]
    assert len(links) > 5 and not missing
