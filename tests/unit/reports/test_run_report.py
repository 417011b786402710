"""The run report: well-formed, self-contained, escaped HTML with the values of the run's files."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from opsd_cli.reports import write_picture, write_run_report
from opsd_cli.reports.svg import Series, line_chart, nice_ticks

VOID = {"meta", "line", "circle", "polyline", "polygon", "br"}
HOSTILE = '<script>alert(1)</script> & "quotes" </pre>'


class Strict(HTMLParser):
    """A parser that fails on tags that are not nested properly, and collects the text."""

    OPTIONAL = ("tr", "td", "th", "html", "body")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag not in VOID and tag not in self.OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and tag not in self.OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a run & more"
    folder.mkdir()
    (folder / "config.yaml").write_text("model: embedded\n")
    (folder / "environment.json").write_text('{"python": "3"}')
    steps = range(1, 5)
    write(folder / "metrics.jsonl", [
        {
            "step": step, "loss": 0.5 / step, "grad_norm": 1.0, "reward": 0.1 * step,
            "entropy": 0.4, "teacher_entropy": 0.1, "completion_tokens": 40 + step,
            "truncated": 0.0, "hedges_per_100_words": 1.0, "copied": 0.2, "clipped": 0.0,
            "divergence_by_class": {"number": 0.1 * step, "word": 0.01},
            "ledger": {"generated": 1234 * step, "trained": 5678 * step}, "seconds": 60.0 * step,
            "cpu_seconds": 90.0 * step, "memory_peak": 2**30,
        }
        for step in steps
    ])  # fmt: skip
    write(folder / "rollouts.jsonl", [
        {
            "step": step, "problem_id": "p<1>", "sample_index": 0, "completion": HOSTILE,
            "tokens": 7, "finish_reason": "stop", "correct": step == 4, "divergence": 0.25,
        }
        for step in steps
    ])  # fmt: skip
    write(folder / "evaluations.jsonl", [
        {"step": step, "split": split, "accuracy": estimate(0.5 + step / 10), "generated": g,
         "best": split == "validation"}
        for step, split, g in
        [(0, "test", 0), (0, "validation", 0), (4, "validation", 4936), (4, "test", 4936)]
    ])  # fmt: skip
    return folder


def finish(run: Path) -> None:
    (run / "result.json").write_text(
        json.dumps({
            "accuracy": {"base": estimate(0.5), "best": estimate(0.9), "final": estimate(0.9)},
            "best_step": 4, "tokens": {"generated": 4936}, "seconds": 240.0,
        })
    )  # fmt: skip


def test_report_of_a_finished_run_begins_with_its_result(run: Path) -> None:
    finish(run)
    page = Strict()
    page.feed(write_run_report(run).read_text())
    text = " ".join(page.words)
    assert page.open == []
    assert "from 50.0% (40.0–60.0) to 90.0% (80.0–100.0)" in text
    assert "4.94k generated tokens in 4:00" in text
    assert "4,936" in text and "22,712" in text
    assert "validation: 90% at 4.94k generated tokens" in text


def test_report_escapes_completions_and_ids(run: Path) -> None:
    html = write_run_report(run).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "p&lt;1&gt;" in html


def test_report_is_self_contained(run: Path) -> None:
    html = write_run_report(run).read_text()
    assert not re.search(r"https?://|src=|url\(|@import", html)


def test_report_of_an_unfinished_run_says_so(run: Path) -> None:
    assert "has not finished: 4 steps are done" in write_run_report(run).read_text()
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluations.jsonl"):
        (run / name).unlink()
    assert "0 steps are done" in write_run_report(run).read_text()


def collapse_part(run: Path) -> str:
    html = write_run_report(run).read_text()
    section = html.partition("<h2>Signs of collapse</h2>")[2].partition("<h2>Tokens</h2>")[0]
    page = Strict()
    page.feed(section)
    assert page.open == []
    return " ".join(" ".join(page.words).split())


def test_report_of_a_run_says_that_no_collapse_metric_moved(run: Path) -> None:
    text = collapse_part(run)
    assert "Verdict: none of the 6 metrics moved by more than its threshold" in text
    assert "the first quarter of the steps (1) and the last (4)" in text
    assert "completion length, tokens 41 44 +7% 25% no" in text
    assert "share copied from the reference 20.0% 20.0% +0.0 points 10.0 points no" in text


def test_report_of_a_run_names_the_collapse_metrics_that_moved(run: Path) -> None:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row |= {"completion_tokens": 100.0 / row["step"], "entropy": 0.4 * row["step"]}
    write(path, rows)
    text = collapse_part(run)
    assert "Verdict: 2 of the 6 metrics moved by more than their threshold" in text
    assert "completion length, tokens: 100 to 25 (as in a collapse)" in text
    assert "entropy, nats a token: 0.4 to 1.6 (away from a collapse)" in text
    assert "completion length, tokens 100 25 -75% 25% yes, as in a collapse" in text


def test_report_of_a_short_run_has_no_collapse_verdict(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "No verdict: 3 steps are too few, 4 are needed." in collapse_part(run)


def test_picture_of_a_run_is_a_png(run: Path, tmp_path: Path) -> None:
    finish(run)
    picture = write_picture(run, tmp_path / "out" / "run.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_chart_has_every_point() -> None:
    chart = line_chart([Series("a", "red", [(0, 1), (1, 3), (2, 2)])], "x", "y")
    assert chart.count("<circle") == 3
    assert "<title>a: 3 at 1 x</title>" in chart
    assert "nothing to draw" in line_chart([Series("a", "red", [])], "x", "y")
    assert "<circle" in line_chart([Series("a", "red", [(0, 0)])], "x", "y")


def test_chart_ticks_are_round_numbers_within_the_range() -> None:
    assert nice_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1.0]
    assert nice_ticks(0, 97000, 5) == [0, 20000, 40000, 60000, 80000]
    assert nice_ticks(3, 3) == [3]
