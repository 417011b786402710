"""Runs and evaluations whose grader is a function of the user's: rewards, files, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.files.jsonl_log import read_rows
from tests.support.cli import Opsd
from tests.support.fakes import FakePolicy

#: Scores of 0.5 and 1; no completion reads the gold answer.
RULES = """
import sys

def score(problem, completion):
    print("noise")
    if problem.answer in completion:
        return 1.0, "the answer is there"
    return 0.5, "the answer is missing"

def failing(problem, completion):
    raise ValueError("not today")
"""
TRAIN = (
    "train --json --set data.train=good.jsonl --method grpo --set train.steps=4 "
    "--set train.questions_per_step=4 --set train.evaluate_every=2 --set train.checkpoint_every=2 "
    "--set grading.grader=rules.py:score --set rollouts.per_question=4 "
)
NUMBERED = {"score", "feedback"}


@pytest.fixture(autouse=True)
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text(RULES)
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return list(read_rows(path))


def test_scores_are_the_rewards_of_grpo_and_stand_in_the_logs(opsd: Opsd, tmp_path: Path) -> None:
    code, _, err = opsd(f"{TRAIN} --out run")
    assert code == 0, err
    rollouts = rows(tmp_path / "run" / "rollouts.jsonl")
    assert {row["score"] for row in rollouts} == {0.5, 1.0}
    assert all(row["correct"] == (row["score"] == 1) for row in rollouts)
    assert {row["feedback"] for row in rollouts} == {"the answer is there", "the answer is missing"}
    for row in rows(tmp_path / "run" / "metrics.jsonl"):
        own = [r["score"] for r in rollouts if r["step"] == row["step"]]
        assert row["reward"] == pytest.approx(sum(own) / len(own))
        assert "ungraded" not in row
        right = [r["correct"] for r in rollouts if r["step"] == row["step"]]
        assert row["correct"] == pytest.approx(sum(right) / len(right))
    assert "train score 0." in err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "mean score of training rollouts" in page and "rollouts that are right" not in page
    for row in rows(tmp_path / "run" / "evaluations.jsonl"):
        assert row["accuracy"]["value"] <= row["mean_score"]["value"] <= 1
        assert row["flexible_accuracy"] is None


def test_a_run_with_the_default_grader_has_no_keys_of_scores(opsd: Opsd, tmp_path: Path) -> None:
    code, _, err = opsd(TRAIN.replace("rules.py:score", "math") + "--out run")
    assert code == 0, err
    assert not any(NUMBERED & row.keys() for row in rows(tmp_path / "run" / "rollouts.jsonl"))
    for row in rows(tmp_path / "run" / "evaluations.jsonl"):
        assert "mean_score" not in row and row["flexible_accuracy"] is not None
    assert not any("correct" in row for row in rows(tmp_path / "run" / "metrics.jsonl"))
    assert "train accuracy " in err
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert "grader_files" not in environment


def test_resuming_warns_of_a_grader_that_has_changed(
    opsd: Opsd, tmp_path: Path, rules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(3))
    apply = FakePolicy.apply

    def crash(policy: FakePolicy, learning_rate: float) -> float:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return apply(policy, learning_rate)

    with monkeypatch.context() as patch:
        patch.setattr(FakePolicy, "apply", crash)
        code, _, err = opsd(f"{TRAIN} --out run")
    assert code == 130, err
    rules.write_text(RULES.replace("0.5", "0.25"))
    code, _, err = opsd("train --resume --out run")
    assert code == 0 and "rules.py has changed since it last graded this run" in err
    [later] = json.loads((tmp_path / "run" / "environment.json").read_text())["later"]
    assert later["grader_files"].keys() == {"rules.py"}


def test_a_function_that_fails_costs_no_run_and_is_counted(opsd: Opsd, tmp_path: Path) -> None:
    code, _, err = opsd(TRAIN.replace("rules.py:score", "rules.py:failing") + "--out run")
    assert code == 0, err
    assert err.count("rules.py, line 11: ValueError: not today") == 1
    for row in rows(tmp_path / "run" / "metrics.jsonl"):
        assert row["reward"] == 0 and row["ungraded"] == 16


def test_a_missing_function_is_refused_before_a_run_directory_is_made(
    opsd: Opsd, tmp_path: Path
) -> None:
    for command in (
        TRAIN.replace("rules.py:score", "rules.py:nosuch") + "--out new",
        TRAIN.replace("rules.py:score", "rules.py:nosuch") + "--dry-run",
        "eval --benchmark good.jsonl --out new --set grading.grader=rules.py:nosuch",
        "sample --file good.jsonl --set grading.grader=rules.py:nosuch",
    ):
        code, _, err = opsd(command)
        assert code == 2 and "rules.py has no function 'nosuch'" in err, err
        assert "its functions are failing, score" in err or "score, failing" in err
    assert not (tmp_path / "new").exists()


def test_an_evaluation_shows_the_mean_score_and_no_majority(opsd: Opsd, tmp_path: Path) -> None:
    evaluate = "eval --benchmark good.jsonl --samples 2 --out e "
    code, out, err = opsd(f"{evaluate} --set grading.grader=rules.py:score --json")
    assert code == 0, err
    found = json.loads(out)["benchmarks"]["good.jsonl"]
    samples = rows(tmp_path / "e" / "samples.jsonl")
    mean = sum(row["score"] for row in samples) / len(samples)
    assert found["mean_score"]["value"] == pytest.approx(mean)
    assert found["majority"] is None and found["flexible_accuracy"] is None
    page = (tmp_path / "e" / "report.html").read_text()
    assert "mean score" in page and "maj@k" not in page and "flexible" not in page
    code, out, err = opsd(f"{evaluate} --resume")
    assert code == 0 and "mean" in out and "maj@2" not in out and "strict" not in out
    code, out, err = opsd(f"{evaluate} --regrade --json --set grading.grader=math")
    assert code == 0, err
    assert "mean_score" not in json.loads(out)["benchmarks"]["good.jsonl"]
    assert not any(NUMBERED & row.keys() for row in rows(tmp_path / "e" / "samples.jsonl"))


def test_an_evaluation_is_not_resumed_with_a_changed_function(opsd: Opsd, rules: Path) -> None:
    evaluate = "eval --benchmark good.jsonl --out e"
    assert opsd(f"{evaluate} --set grading.grader=rules.py:score")[0] == 0
    rules.write_text(RULES.replace("0.5", "0.25"))
    code, _, err = opsd(f"{evaluate} --resume --samples 2")
    assert code == 2 and "what the grader reads" in err
    code, out, err = opsd(f"{evaluate} --regrade --json")
    assert code == 0 and json.loads(out)["changed"] > 0, err
    assert opsd(f"{evaluate} --resume --samples 2")[0] == 0


def test_problems_without_answers_are_graded_by_a_function(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "open.jsonl").write_text('{"question": "Say something."}\n' * 1)
    (tmp_path / "rules.py").write_text("def score(problem, completion):\n    return 0.25\n")
    code, out, err = opsd(
        "eval --benchmark open.jsonl --out e --json --set grading.grader=rules.py:score"
    )
    assert code == 0, err
    assert json.loads(out)["benchmarks"]["open.jsonl"]["mean_score"]["value"] == 0.25
    code, out, err = opsd("sample 'Say it' --json --set grading.grader=rules.py:score")
    assert code == 0, err
    assert {entry["score"] for entry in json.loads(out)["completions"]} == {0.25}
    code, out, err = opsd("sample 'Say it' --n 1 --set grading.grader=rules.py:score")
    assert code == 0 and "wrong, score 0.25" in out, err


def test_the_preflight_and_the_best_checkpoint_go_by_mean_score_where_there_are_numbers(
    opsd: Opsd, tmp_path: Path
) -> None:
    """No score reaches `pass_at`: by accuracy the teacher would be no better, nor any step."""
    (tmp_path / "rules.py").write_text(
        "def score(problem, completion):\n    return 0.9 if problem.answer in completion else 0.4\n"
    )
    code, _, err = opsd(f"{TRAIN.replace('grpo', 'opsd')} --out run")
    assert code == 0, err
    assert "preflight: mean score 0." in err
    record = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert record["student"]["value"] == record["teacher"]["value"] == 0
    means = {role: each["value"] for role, each in record["mean_score"].items()}
    assert means["teacher"] > means["student"]
    validations = [
        row for row in rows(tmp_path / "run" / "evaluations.jsonl") if row["split"] == "validation"
    ]
    values = [row["mean_score"]["value"] for row in validations]
    best = [place == 0 or value > max(values[:place]) for place, value in enumerate(values)]
    assert [row["best"] for row in validations] == best


def test_a_preflight_that_fails_says_the_mean_scores(opsd: Opsd, tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("def score(problem, completion):\n    return 0.5\n")
    code, _, err = opsd(f"{TRAIN.replace('grpo', 'opsd')} --out run")
    assert code != 0 and "(mean score 0.500 with it, 0.500 without)" in err


def test_tests_that_have_changed_require_regrading(opsd: Opsd, tmp_path: Path) -> None:
    def write(test: str) -> None:
        (tmp_path / "set.jsonl").write_text(json.dumps({"question": "a?", "tests": test}) + "\n")

    write("assert True")
    evaluate = "eval --benchmark set.jsonl --out e --set grading.grader=code"
    assert opsd(evaluate)[0] == 0
    write("assert 1")
    code, _, err = opsd(f"{evaluate} --resume --samples 2")
    assert code == 2 and "other values in the columns that are kept" in err and "--regrade" in err
    assert opsd(f"{evaluate} --regrade")[0] == 0
    assert opsd(f"{evaluate} --resume --samples 2")[0] == 0
