"""The pages agree with the benchmark results, and their links exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.real import result


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


#: A figure with a decimal, as "31.8" of "31.8%".
FIGURE = re.compile(r"(?<![\d.,])\d+\.\d+(?![\d.])")


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    saved: dict[str, Any] = json.loads(result.PATH.read_text())
    return saved


def words(text: str) -> str:
    """The text without line breaks and bold marks."""
    return " ".join(text.replace("**", "").split())


def figures_of(real: dict[str, Any]) -> set[str]:
    """Every accuracy in percent, ratio and interval of the real comparison, as pages write them."""
    methods = real["methods"].values()
    shares = [real["target_accuracy"], real["constant_answer"]]
    for method in methods:
        shares += [method["base"], method["last"], *method["best"].values()]
    differences = [each[key] for each in real["differences"] for key in ("value", "low", "high")]
    ratios = [each[key] for each in real["ratios"].values() for key in ("ratio", "low", "high")]
    percents = {f"{abs(100 * share):.1f}" for share in (*shares, *differences)}
    return percents | {result.ratio(each) for each in ratios}


def test_readme_quotes_the_figures_of_the_real_comparison(real: dict[str, Any]) -> None:
    paragraphs = PAGES[0].read_text().split("\n\n")
    (text,) = (words(each) for each in paragraphs if "SmolLM2-135M-Instruct" in each)
    quoted = set(FIGURE.findall(text))
    best = {name: f"{method['best']['value']:.1%}" for name, method in real["methods"].items()}
    assert quoted <= figures_of(real)
    assert {each.rstrip("%") for each in best.values()} <= quoted
    generated = real["ratios"]["generated"]
    assert {result.ratio(generated[key]) for key in ("ratio", "low", "high")} <= quoted
    assert f"with {generated['ratio']:.0f} times fewer](docs/real.png)" in PAGES[0].read_text()


def test_page_of_the_real_comparison_has_its_figures(real: dict[str, Any]) -> None:
    page = (tables.ROOT / "docs" / "real.md").read_text()
    assert [line for line in result.lines(real) if line not in page] == []
    text = words(page)
    for command in (*real["commands"], f"at commit {real['commit']}", f"{real['minutes']} minutes"):
        assert command in text
    for counted, ratio in real["ratios"].items():
        assert counted == "flops" or result.ratio_with_interval(ratio) in text.replace(
            "times fewer tokens (95% interval ", "("
        )


def test_page_of_the_real_comparison_quotes_nothing_else(real: dict[str, Any]) -> None:
    page = (tables.ROOT / "docs" / "real.md").read_text()
    bullets = page.split("- To reach GRPO's best")[1].split("\n## ")[0]
    assert set(FIGURE.findall(words(bullets))) <= figures_of(real)


def test_saved_real_comparison_has_no_path_of_a_machine() -> None:
    assert re.findall(r"(?<![\w.])/\w+", result.PATH.read_text()) == []
