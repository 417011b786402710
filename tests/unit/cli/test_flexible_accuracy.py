"""`opsd eval` and `opsd train` show strict and flexible accuracy side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path

from opsd_cli.files.jsonl_log import read_rows
from tests.support.cli import QUICK, Opsd

NAME = "good.jsonl"


def without_boxes(path: Path) -> None:
    """Rewrite samples as an earlier version would have graded answers without a box."""
    rows = list(read_rows(path))
    for row in rows:
        row["completion"] = re.sub(r"\\boxed\{(.*)\}", r"That makes \1 of them.", row["completion"])
        row |= {"answer": None, "status": "no_answer", "correct": False}
        del row["flexible_answer"], row["flexible_correct"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_regrade_adds_flexible_accuracy_to_an_older_evaluation(opsd: Opsd, tmp_path: Path) -> None:
    code, out, _ = opsd(f"eval --benchmark {NAME} --samples 2 --out e --json")
    boxed = json.loads(out)["benchmarks"][NAME]
    assert code == 0 and 0 < boxed["accuracy"]["value"] < 1
    assert boxed["flexible_accuracy"] == boxed["accuracy"]
    assert boxed["format_gap"]["value"] == 0
    without_boxes(tmp_path / "e" / "samples.jsonl")
    code, out, err = opsd("eval --resume --out e")
    assert code == 0 and "--regrade adds" in err and "flexible 0" not in out
    none = json.loads((tmp_path / "e/results.json").read_text())["benchmarks"][NAME]
    assert none["flexible_accuracy"] is None and none["format_gap"] is None

    code, out, _ = opsd("eval --regrade --out e")
    value = 100 * boxed["accuracy"]["value"]
    assert code == 0 and "0 changed" in out
    line = f"{NAME}: strict 0.0% · flexible {value:.1f}%: format explains {value:.1f} points"
    assert line in out
    after = json.loads((tmp_path / "e/results.json").read_text())["benchmarks"][NAME]
    assert after["accuracy"]["value"] == 0
    assert after["flexible_accuracy"] == boxed["accuracy"]
    assert after["format_gap"]["value"] == boxed["accuracy"]["value"]
    assert "right with flexible extraction" in "".join(
        page.read_text() for page in (tmp_path / "e/pages/0").glob("*.html")
    )


def test_a_difference_is_split_into_flexible_accuracy_and_format(
    opsd: Opsd, tmp_path: Path
) -> None:
    assert opsd(f"eval --benchmark {NAME} --out before --json")[0] == 0
    without_boxes(tmp_path / "before" / "samples.jsonl")
    assert opsd("eval --regrade --out before")[0] == 0
    code, out, _ = opsd(f"eval --benchmark {NAME} --out after --against before")
    entry = json.loads((tmp_path / "after/results.json").read_text())["benchmarks"][NAME]
    value = entry["accuracy"]["value"]
    assert code == 0 and entry["against"]["difference"]["value"] == value > 0
    assert entry["against"]["flexible_difference"]["value"] == 0
    parts = f"+0.0 points with flexible extraction, +{100 * value:.1f} from format"
    assert parts in out
    assert parts in (tmp_path / "after/report.html").read_text()


def test_a_run_records_flexible_accuracy_of_its_test_split(opsd: Opsd, tmp_path: Path) -> None:
    steps = "--set train.steps=2 --set train.questions_per_step=4 --set train.evaluate_every=1"
    code, out, err = opsd(f"train --out run --set data.train={NAME} {steps}")
    assert code == 0, err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["flexible_accuracy"] == result["accuracy"]
    assert re.search(r"gain\s+flexible\s", out)
    code, again, _ = opsd("train --resume --out run --json")
    assert code == 0 and json.loads(again)["flexible_accuracy"] == result["accuracy"]


def test_samples_of_an_evaluation_name_the_flexible_answer(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd(f"eval --benchmark {NAME} --limit 4 --out e --json")[0] == 0
    for row in read_rows(tmp_path / "e" / "samples.jsonl"):
        assert row["flexible_answer"] == row["answer"]
        assert row["flexible_correct"] is row["correct"]


def test_the_flexible_column_of_a_run_has_a_caption(opsd: Opsd) -> None:
    code, out, err = opsd(f"train --out run {QUICK}")
    assert code == 0, err
    caption = next(line for line in out.splitlines() if line.startswith("flexible: "))
    assert "without a box" in caption


def test_page_of_a_sample_shows_its_other_answer(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd(f"eval --benchmark {NAME} --limit 1 --out e --json")[0] == 0
    path = tmp_path / "e" / "samples.jsonl"
    (row,) = read_rows(path)
    path.write_text(json.dumps(row | {"completion": r"\boxed{5} So the answer is 71."}) + "\n")
    assert opsd("eval --regrade --out e")[0] == 0
    (row,) = read_rows(path)
    assert row["other_answer"] == "71"
    assert "answer 5; says 71 too" in (tmp_path / "e/pages/0/1.html").read_text()
