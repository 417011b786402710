"""`opsd report`: the page of a run, an evaluation and a comparison again, finished or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.comparison.jobs import plan_of, write_plan
from opsd_cli.config.resolve import resolve
from tests.support.cli import QUICK, Opsd

TRAIN = f"train --set data.train=good.jsonl {QUICK}"


def test_report_writes_the_page_of_a_run_again(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd(f"{TRAIN} --out run")[0] == 0
    page = tmp_path / "run" / "report.html"
    first = page.read_text()
    page.unlink()
    code, out, _ = opsd("report run --json")
    assert code == 0 and json.loads(out) == {
        "directory": "run", "kind": "run", "finished": True, "report": "run/report.html",
    }  # fmt: skip
    assert page.read_text() == first and "prompt as sent" in first
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    code, out, _ = opsd("report run --out elsewhere/page")
    assert code == 0 and "report: elsewhere/page/report.html" in out
    assert (tmp_path / "elsewhere" / "page" / "report.html").read_text() == first
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_report_of_an_interrupted_run_says_so(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd(f"{TRAIN} --out run")[0] == 0
    (tmp_path / "run" / "result.json").unlink()
    code, out, err = opsd("report run --json")
    assert code == 0 and not json.loads(out)["finished"]
    assert "the run in run has not finished" in err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "4 of 4 steps are done" in page and "The run was interrupted" in page


def test_report_of_an_evaluation_with_its_prompts(opsd: Opsd, tmp_path: Path) -> None:
    command = "eval --benchmark good.jsonl --limit 4 --samples 2 --out e"
    assert opsd(command)[0] == 0
    pages = {path: path.read_text() for path in (tmp_path / "e").rglob("*.html")}
    assert len(pages) == 5 and sum("prompt as sent" in page for page in pages.values()) == 4
    assert "adapter_digest" not in "".join(pages.values())
    code, out, _ = opsd("report e --json")
    assert code == 0 and json.loads(out)["kind"] == "evaluation"
    assert {path: path.read_text() for path in pages} == pages


def test_report_of_an_interrupted_evaluation_has_the_complete_problems(
    opsd: Opsd, tmp_path: Path
) -> None:
    assert opsd("eval --benchmark good.jsonl --limit 4 --samples 2 --out e")[0] == 0
    samples = tmp_path / "e" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    rows.sort(key=lambda row: (row["problem_id"], row["sample_index"]))
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    (tmp_path / "e" / "results.json").unlink()
    code, out, err = opsd("report e --json")
    assert code == 0 and not json.loads(out)["finished"] and "has not finished" in err
    page = (tmp_path / "e" / "report.html").read_text()
    assert "has not finished. 2 problems so far" in page
    assert "The evaluation was interrupted: good.jsonl 5 of 8 samples" in page
    assert len(list((tmp_path / "e" / "pages").rglob("*.html"))) == 2
    samples.write_text(json.dumps(rows[0]) + "\n")
    assert opsd("report e")[0] == 0
    page = (tmp_path / "e" / "report.html").read_text()
    assert "no problem has all of its samples yet" in page


def test_report_of_a_comparison_of_finished_runs(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsd_cli.reports.comparison_pages.page_samples", lambda *_: {})
    for method in ("opsd", "sft"):
        curve = "--set train.curve=true --set train.patience=null"
        assert opsd(f"{TRAIN} --method {method} --out {method} {curve}")[0] == 0
    code, out, _ = opsd("compare opsd sft --out c --json")
    assert code == 0
    page = tmp_path / "c" / "report.html"
    first, summary = page.read_text(), json.loads(out)
    assert "unknown" not in first and summary["methods"]["sft"]["tokens_generated"] == 0
    assert first.count("<b>Verdict:</b>") == 2  # of each method, with thresholds
    (tmp_path / "c" / "samples.json").write_text(json.dumps({
        "opsd": [{
            "problem_id": "p", "status": "right", "tokens": 3, "completion": "yes",
            "prompts": {"student": "as the student had it", "teacher": "with the reference"},
        }],
    }))  # fmt: skip
    code, out, _ = opsd("report c --json")
    assert code == 0 and json.loads(out)["finished"]
    again = page.read_text()
    assert first[: first.index("<h2>Exactly what ran")] == again[: again.index("<h2>Rollouts on")]
    assert "<summary>teacher&#x27;s prompt as sent</summary><pre>with the reference" in again


def test_report_of_an_interrupted_comparison_shows_its_runs(opsd: Opsd, tmp_path: Path) -> None:
    configs = {method: resolve(None, [], {"method": method}) for method in ("opsd", "grpo")}
    write_plan(tmp_path / "c", plan_of(configs, [0], False, None))
    assert opsd(f"{TRAIN} --out c/opsd-s0")[0] == 0
    code, out, err = opsd("report c --json")
    assert code == 0 and json.loads(out)["kind"] == "comparison"
    assert "the comparison in c has not finished" in err
    page = (tmp_path / "c" / "report.html").read_text()
    assert "has not finished: 1 of 2 runs are done" in page
    assert "It was interrupted. Go on with it: opsd compare --resume --out c" in page
    assert "<td>opsd-s0<td>finished<td>4 of" in page
    assert "<td>grpo-s0<td>not begun<td>0 of" in page


def test_report_refuses_a_directory_without_a_run(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = opsd("report empty")
    assert code == 2 and out == "" and len(err.splitlines()) == 2
    assert "empty is no run, evaluation or comparison" in err and "hint: " in err
    code, _, err = opsd("report nowhere")
    assert code == 2 and "there is no directory nowhere" in err
    code, _, err = opsd("report good.jsonl")
    assert code == 2 and "good.jsonl is no run" in err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", None),
        ("metrics.jsonl", '{"step": 1}\n'),
        ("evaluations.jsonl", '{"split": "test"}\n'),
        ("evaluations.jsonl", '{"split": "test", "step": 0, "accuracy": 5}\n'),
        ("comparison.json", '{"methods": {"opsd": {}}}'),
        ("plan.json", "{"),
        ("evaluation.json", "[]"),
    ],
)
def test_report_of_a_damaged_directory_is_a_page_or_two_lines(
    opsd: Opsd, tmp_path: Path, name: str, text: str | None
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    if text is not None:
        (tmp_path / "run" / name).write_text(text)
    code, _, err = opsd("report run")
    assert "unexpected" not in err and code in (0, 2)
    assert (tmp_path / "run" / "report.html").exists() == (code == 0)
    assert code == 0 or (len(err.splitlines()) == 2 and "damaged" in err)
