"""The figures that `benchmarks.real.result` keeps, from files as a comparison has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.real import result

INTERVAL = {"value": 0.25, "low": 1 / 6, "high": 0.5}


def write(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluation(step: int, split: str) -> dict[str, Any]:
    return {
        "step": step, "split": split, "accuracy": INTERVAL, "no_answer": 0.0,
        "flexible_accuracy": INTERVAL, "correct": [0.0, 1.0],
    }  # fmt: skip


def test_real_comparison_keeps_the_test_accuracies_and_no_path(tmp_path: Path) -> None:
    method = {
        "runs": ["/somewhere/cmp/opsd-s3"], "seeds": [3], "base_accuracy": 0.0, "steps": 2,
        "accuracy": INTERVAL, "curve": {"accuracy": [0.0, 0.25]}, "learning_rate": 1e-4,
        "tokens": {"generated": 1234.5}, "spent": {"all": 1e5, "cpu_seconds": 61.6},
    }  # fmt: skip
    ratio = {"ratio": 9.39, "low": 0.25, "high": 25.7}
    found = {
        "methods": {"opsd": method}, "seeds": [3], "test_problems": 4, "target_accuracy": 1 / 3,
        "target_from": "grpo", "efficiency": {"generated": ratio}, "differences": [],
        "comparison_dir": "/somewhere/cmp",
    }  # fmt: skip
    write(tmp_path / "cmp" / "comparison.json", found)
    rows = [evaluation(0, "test"), evaluation(1, "validation"), evaluation(2, "test")]
    write(tmp_path / "cmp" / "opsd-s3" / "evaluations.jsonl", *rows)
    answers = [{"answer": each} for each in ("son", "wife", "son", "son", "wife", "wife", "wife")]
    write(tmp_path / "kit" / "problems" / f"{result.FAMILY}-test.jsonl", *answers)
    kept = result.comparison_of(tmp_path / "cmp", tmp_path / "kit")
    assert kept["constant_answer"] == 0.75  # of the first four
    assert kept["methods"]["opsd"]["tests"]["3"]["steps"] == [0, 2]
    assert kept["methods"]["opsd"]["tests"]["3"]["low"] == [0.16666667] * 2
    text = result.compact(kept)
    assert json.loads(text) == kept and "somewhere" not in text
    assert '"steps": [ 0, 2 ]' in text
    assert result.ratio_with_interval(kept["ratios"]["generated"]) == "9.4 (0.25 to 25.7)"


def test_real_other_family_has_a_row(tmp_path: Path) -> None:
    write(tmp_path / "preflight.json", {"student": INTERVAL, "teacher": INTERVAL, "problems": 32})
    write(tmp_path / "metrics.jsonl", {"divergence": 0.5}, {"divergence": 0.25})
    write(tmp_path / "result.json", {"tokens": {"generated": 6317}})
    write(tmp_path / "evaluations.jsonl", *(evaluation(step, "test") for step in (0, 6, 12)))
    other = result.other_of("gsm_symbolic", tmp_path, 1)
    assert (other["divergence"], other["test_problems"]) == ([0.5, 0.25], 2)
    assert other["command"].endswith("benchmarks/real/gsm.yaml --set seed=1")
    assert result.lines({"methods": {}, "others": [other]}) == [
        "| `gsm_symbolic`, seed 1 | 25%, 25% | 25% (16.7–50.0) | 25% | 25% (16.7–50.0) | 6.3k |"
    ]
