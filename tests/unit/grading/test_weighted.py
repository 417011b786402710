"""Several graders with weights: the score is their mean, and one decides what is correct."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.config.grading_section import Grading
from opsd_cli.config.resolve import resolve, to_yaml, validate
from opsd_cli.config.yaml_files import read_yaml
from opsd_cli.errors import ConfigError
from opsd_cli.grading import Grade, GradedProblem, Item, described, open_grader, traits_of
from opsd_cli.grading.clusters import clusters
from tests.support.cli import Opsd
from tests.support.user_graders import write_rules

PROBLEM = GradedProblem("1", "?", "pair", fields={"rule": "be short"})
WEIGHTS = {"exact": 3.0, "rules.py:score": 1.0}


@pytest.fixture(autouse=True)
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rules(tmp_path)
    monkeypatch.chdir(tmp_path)


def graded(settings: Grading, *completions: str) -> list[Grade]:
    with open_grader(settings) as grader:
        grader.check()
        return grader.grade([Item(PROBLEM, completion) for completion in completions])


def test_the_score_is_the_weighted_mean_and_the_grader_decides() -> None:
    settings = Grading(grader="exact", weights=WEIGHTS, deadline_seconds=3600)
    pair, half, crash = graded(settings, "pair", "half", "raise")
    assert pair == Grade("correct", "pair", (3 * 1 + 0.75) / 4, "rules.py:score: too long")
    assert half == Grade("wrong", "half", 0.5 / 4)
    assert crash == Grade("wrong", "raise", 0.0), "a grader that failed scores 0"


def test_the_deciding_grader_may_have_no_weight() -> None:
    settings = Grading(grader="exact", weights={"rules.py:score": 2}, deadline_seconds=3600)
    [pair] = graded(settings, "pair")
    assert pair.correct and pair.score == 0.75


def test_traits_and_description_are_those_of_all() -> None:
    settings = Grading(grader="exact", weights={"code": 1, "rules.py:score": 1})
    traits = traits_of(settings)
    assert traits.columns == ("tests",) and traits.needs_answer and traits.comparable
    found = described(settings)
    assert found["grading"]["weights"] == {"code": 1, "rules.py:score": 1}
    assert found["grading"]["files"].keys() == {"rules.py"}
    assert found["grading"]["ignore_case"] is False
    with open_grader(settings) as grader:
        assert clusters([["a", "a ", "b"]], grader) == [[0, 0, 1]]


def test_weights_are_set_on_the_command_line_and_kept_in_a_config() -> None:
    weights = "grading.weights={math: 1, rules.py:score: 0.2}"
    config = resolve(assignments=[weights])
    assert config.grading.weights == {"math": 1, "rules.py:score": 0.2}
    assert validate(read_yaml(to_yaml(config), "config")) == config
    for wrong in ("{maths: 1}", "{math: 0}", "{math: -1}"):
        with pytest.raises(ConfigError):
            resolve(assignments=[f"grading.weights={wrong}"])


def test_a_weighted_evaluation_has_both_accuracies_of_mathematics(opsd: Opsd) -> None:
    code, out, err = opsd(
        "eval --benchmark good.jsonl --out e --json "
        "--set 'grading.weights={math: 1, rules.py:score: 1}'"
    )
    assert code == 0, err
    found = json.loads(out)["benchmarks"]["good.jsonl"]
    assert found["mean_score"]["value"] < found["accuracy"]["value"]
    assert found["flexible_accuracy"] is not None
