"""The run report: well-formed, self-contained, escaped HTML with the values of the run's files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest

from opsd_cli.files.directory_lock import lock_directory
from opsd_cli.reports import write_picture, write_run_report
from opsd_cli.reports.run_report import rollouts_section
from tests.support.pages import accessibility_faults

VOID = {"meta", "line", "path", "polyline", "polygon", "br"}
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
            "step": step, "steps": 8, "loss": 0.5 / step, "grad_norm": 1.0, "reward": 0.1 * step,
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
            "prompt": f"<|user|>{HOSTILE}", "teacher_prompt": "<|user|>with the reference",
        }
        for step in steps
    ])  # fmt: skip
    write(folder / "evaluations.jsonl", [
        {"step": step, "split": split, "accuracy": estimate(0.5 + step / 10), "generated": g,
         "best": split == "validation", "evaluation_tokens": 100, "seconds": 5.0,
         "cpu_seconds": 6.0}
        for step, split, g in
        [(0, "test", 0), (0, "validation", 0), (4, "validation", 4936), (4, "test", 4936)]
    ])  # fmt: skip
    return folder


def finish(run: Path, best_step: int = 4) -> None:
    (run / "result.json").write_text(
        json.dumps({
            "accuracy": {"base": estimate(0.5), "best": estimate(0.9), "final": estimate(0.9)},
            "best_step": best_step, "steps": 4, "seconds": 252.0,
            "tokens": {"generated": 4936, "trained": 22712, "evaluation": 73609},
        })
    )  # fmt: skip


def test_report_of_a_finished_run_begins_with_its_result(run: Path) -> None:
    finish(run)
    page = Strict()
    page.feed(write_run_report(run).read_text())
    text = " ".join(page.words)
    assert page.open == []
    assert "from 50.0% (40.0–60.0) to 90.0% (80.0–100.0)" in text
    assert "The accuracy of the embedded model on unseen test problems" in text
    assert "4.94k generated tokens in 4:12" in text
    assert "4,936" in text and "22,712" in text
    assert "validation: 90.0% (80.0–100.0) at 4,936 generated tokens" in text


def test_report_of_a_finished_run_has_the_totals_of_its_result(run: Path) -> None:
    """The last step's row lacks what the final measurements took."""
    finish(run)
    totals = section(run, "Totals", "Rollouts")
    assert "73,609" in totals and "the last test included 73,609" in totals
    assert "time preflight, steps and measurements; not loading the model 4:12" in totals


def test_report_of_an_unfinished_run_adds_the_measurements_after_its_last_step(run: Path) -> None:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["ledger"]["evaluation"] = 1000
    write(path, rows)
    totals = section(run, "Totals", "Rollouts")
    assert "the last test included 1,200" in totals  # two measurements at step 4
    assert "Of the run so far" in totals and "not loading the model 4:10" in totals


def test_report_of_a_run_is_read_by_screen_reader_and_keyboard(run: Path) -> None:
    finish(run, best_step=0)
    assert accessibility_faults(write_run_report(run).read_text()) == []


def test_report_of_a_run_that_learnt_nothing_says_so_first(run: Path) -> None:
    finish(run, best_step=0)
    heading = re.search(r"<h1>(.*?)</h1>", write_run_report(run).read_text())
    assert heading is not None
    assert heading[1].startswith("Nothing learnt: no step made the embedded model better")
    assert "50.0% (40.0–60.0) before and 90.0% (80.0–100.0) after the last step" in heading[1]


def test_report_of_a_run_has_the_prompts_as_they_were_sent(run: Path) -> None:
    html = write_run_report(run).read_text()
    assert "<summary>prompt as sent</summary><pre>&lt;|user|&gt;&lt;script&gt;" in html
    assert "<summary>the teacher&#x27;s prompt as sent</summary>" in html


def test_report_of_a_run_names_its_model(run: Path) -> None:
    for model, name in (("org/small-1b", "org/small-1b"), ("/models/small", "small")):
        (run / "config.yaml").write_text(f"model: {model}\n")
        assert f"Training of {name} has" in write_run_report(run).read_text()
    (run / "config.yaml").write_text("model: [\n")
    assert "Training of the model has" in write_run_report(run).read_text()


def test_report_escapes_completions_and_ids(run: Path) -> None:
    html = write_run_report(run).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "p&lt;1&gt;" in html


def test_report_is_self_contained(run: Path) -> None:
    html = write_run_report(run).read_text()
    assert not re.search(r"https?://|src=|url\(|@import", html)


def test_report_of_an_unfinished_run_says_so(run: Path) -> None:
    page = write_run_report(run).read_text()
    assert "has not finished: 4 of 8 steps are done" in page
    assert "The run was interrupted." in page and "opsd train --resume --out" in page
    with closing(lock_directory(run)):
        page = write_run_report(run).read_text()
        assert "was interrupted" not in page and f"at work (process {os.getpid()})" in page
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluations.jsonl"):
        (run / name).unlink()
    assert "0 steps are done" in write_run_report(run).read_text()


def section(run: Path, heading: str, until: str) -> str:
    """The words of the page between two headings."""
    html = write_run_report(run).read_text()
    page = Strict()
    page.feed(html.partition(f"<h2>{heading}</h2>")[2].partition(f"<h2>{until}</h2>")[0])
    assert page.open == []
    return " ".join(" ".join(page.words).split())


def collapse_part(run: Path) -> str:
    return section(run, "Signs of collapse", "Totals")


def with_metrics(run: Path, **values: Sequence[float]) -> None:
    """Replace metrics of the four steps."""
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for index, row in enumerate(rows):
        row |= {key: series[index] for key, series in values.items()}
    write(path, rows)


def test_report_of_a_run_says_that_no_collapse_metric_moved(run: Path) -> None:
    text = collapse_part(run)
    assert "Verdict: no sign of collapse: validation accuracy rose from 50.0% to 90.0%" in text
    assert "No metric crossed its threshold between" in text
    assert "the first quarter of the steps (1) and the last (4)" in text
    assert "completion length, tokens 41 44 +7% 25% no falls" in text
    assert "share copied from the reference 20.0% 20.0% +0.0 points 10.0 points no rises" in text
    assert "validation accuracy 50.0% 90.0% +40.0 points 5.0 points yes, up falls" in text


def test_report_of_a_run_names_the_collapse_thresholds_that_were_crossed(run: Path) -> None:
    with_metrics(run, completion_tokens=(100, 50, 33, 25), entropy=(0.4, 0.8, 1.2, 1.6))
    text = collapse_part(run)
    assert "Thresholds crossed between" in text and ": 2 of 6." in text
    assert "completion length, tokens: 100 to 25 (-75%, threshold 25%)" in text
    assert "entropy, nats a token: 0.4 to 1.6 (+300%, threshold 25%)" in text
    assert "completion length, tokens 100 25 -75% 25% yes, down falls" in text


def test_report_calls_falling_entropy_a_collapse_only_where_accuracy_falls(run: Path) -> None:
    with_metrics(run, entropy=(0.4, 0.2, 0.1, 0.1))
    text = collapse_part(run)
    assert "no sign of collapse: validation accuracy rose" in text
    assert "Entropy moved as in a collapse too, but" in text
    path = run / "evaluations.jsonl"
    path.write_text(path.read_text().replace('"value": 0.9', '"value": 0.3'))
    text = collapse_part(run)
    assert "signs of collapse: validation accuracy fell from 50.0% to 30.0%, and entropy" in text


def test_report_says_where_a_fall_of_the_accuracy_may_be_chance(run: Path) -> None:
    path = run / "evaluations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def told(last: tuple[float, float, float]) -> bool:
        ends = [row for row in rows if row["split"] == "validation"]
        for row, numbers in ((ends[0], (0.5, 0.4, 0.6)), (ends[-1], last)):
            row["accuracy"] = dict(zip(("value", "low", "high"), numbers, strict=True))
        write(path, rows)
        return "intervals that overlap: it may be chance" in collapse_part(run)

    assert told((0.42, 0.3, 0.5))
    assert not told((0.2, 0.1, 0.3))


def test_report_of_a_short_run_has_no_collapse_verdict(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "No verdict: 3 steps are too few, 4 are needed." in collapse_part(run)


def test_picture_of_a_run_is_a_png(run: Path, tmp_path: Path) -> None:
    finish(run)
    picture = write_picture(run, tmp_path / "out" / "run.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_each_rollout_shows_the_teacher_prompt_that_is_its_own() -> None:
    """With siblings a question's rollouts have different ones, or none; else the first has it."""

    def shown(*prompts: dict[str, str | None]) -> list[int]:
        """How often each of the prompts "A" and "B" is on the page."""
        rows = [
            {
                "step": 1, "problem_id": "p", "sample_index": index, "completion": "c",
                "tokens": 1, "correct": True, "divergence": None, **more,
            }
            for index, more in enumerate(prompts)
        ]  # fmt: skip
        page = rollouts_section(rows)
        assert page.count("S prompt") == len(rows)
        return [page.count(text) for text in ("A prompt", "B prompt")]

    student = {"prompt": "S prompt"}
    assert shown(student | {"teacher_prompt": "A prompt"}, {}, {}) == [3, 0]
    own = ({"teacher_prompt": "A prompt"}, {"teacher_prompt": "B prompt"})
    assert shown(student | {"teacher_prompt": None}, *own) == [1, 1]
    assert shown(student | own[0], {"teacher_prompt": None}) == [1, 0]


def test_each_rollout_shows_the_prompt_with_the_wrong_reference_that_is_its_own() -> None:
    prompts = {"prompt": "S prompt", "teacher_prompt": "T prompt", "contrast_prompt": "W <prompt>"}
    row = {
        "step": 1, "problem_id": "p", "completion": "c", "tokens": 1, "correct": True,
        "divergence": None,
    }  # fmt: skip
    skipped = row | {"teacher_prompt": None, "contrast_prompt": None}
    page = rollouts_section([row | prompts, row, skipped])
    assert page.count("W &lt;prompt&gt;") == page.count("T prompt") == 2
