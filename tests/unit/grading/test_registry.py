"""The registry of graders: selected by `grading.grader`, extended from outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.config.grading_section import Grading
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ConfigError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.grading import GRADERS, GradedProblem, Item, get, open_grader
from opsd_cli.grading.mathematics import MathGrader
from opsd_cli.training import run_directory
from tests.support.cli import Opsd
from tests.support.fakes import FakePolicy

#: Graders that compare an answer with the gold answer.
ANSWERED = ("math", "choice", "exact", "number", "json")

#: A grader from outside: every completion is correct, and its answer is the deadline.
LENIENT = """
from opsd_cli.grading import Grade, Grader, GraderTraits

class LenientGrader(Grader):
    settings = ()

    def __init__(self, deadline_seconds):
        self.deadline_seconds = deadline_seconds

    @classmethod
    def from_settings(cls, settings, name, warn):
        return cls(settings.deadline_seconds)

    @classmethod
    def traits_of(cls, settings):
        return GraderTraits()

    def grade(self, items):
        return [Grade("correct", f"{self.deadline_seconds:g} s") for _ in items]
"""


@pytest.fixture
def lenient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grader_from_outside.py").write_text(LENIENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(GRADERS, "lenient", "grader_from_outside:LenientGrader")


def without_grader(path: Path) -> None:
    """Makes a file what it was before `grading.grader` existed."""
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "grader" not in line]
    assert len(kept) == len(lines) - 1
    path.write_text("".join(kept))


def accuracy(out: str) -> float:
    return json.loads(out)["benchmarks"]["good.jsonl"]["accuracy"]["value"]


def statuses(directory: Path) -> set[tuple[str, str]]:
    rows = read_rows(directory / "samples.jsonl")
    return {(row["status"], row["answer"]) for row in rows}


def test_the_default_grader_is_math() -> None:
    config = resolve(assignments=["grading.deadline_seconds=7"])
    assert config.grading.grader == "math"
    grader = open_grader(config.grading)
    assert isinstance(grader, MathGrader) and grader.deadline_seconds == 7


ASKED = GradedProblem("1", "What is 6 times 7?", "42")


@pytest.mark.parametrize("name", ANSWERED)
def test_every_grader_of_answers_grades_a_correct_and_a_wrong_one(name: str) -> None:
    said = [r"so \boxed{42}", r"so \boxed{43}", ""]
    with open_grader(Grading(grader=name, deadline_seconds=60.0)) as grader:
        grades = grader.grade([Item(ASKED, completion) for completion in said])
    assert [grade.status for grade in grades] == ["correct", "wrong", "no_answer"]
    assert [(grade.score, grade.numeric) for grade in grades] == [
        (1, False),
        (0, False),
        (0, False),
    ]


def test_an_unknown_grader_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(assignments=["grading.grader=maths"])
    assert caught.value.message == (
        f"grading.grader: input should be {', '.join(map(repr, GRADERS))} or FILE.py:FUNCTION, "
        "a function of your own, got 'maths'"
    )
    assert "\n" not in caught.value.hint and caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="unknown grader 'maths'") as caught:
        get("maths")
    assert caught.value.hint == f"choose from {', '.join(GRADERS)}, or FILE.py:FUNCTION"


def test_a_grader_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grader_with_a_need.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(GRADERS, "needy", "grader_with_a_need:Needy")
    config = resolve(assignments=["grading.grader=needy"])
    with pytest.raises(ConfigError, match="'needy' needs the package 'a_package_that_nobody_has'"):
        open_grader(config.grading)


@pytest.mark.usefixtures("lenient")
def test_an_outside_grader_grades_an_evaluation_and_a_sample(opsd: Opsd, tmp_path: Path) -> None:
    evaluate = "eval --benchmark good.jsonl --samples 2 --json --out"
    outside = "--set grading.grader=lenient --set grading.deadline_seconds=3"
    code, out, err = opsd(f"{evaluate} math")
    assert code == 0 and 0 < accuracy(out) < 1, err
    code, out, err = opsd(f"{evaluate} outside {outside}")
    assert code == 0 and accuracy(out) == 1, err
    assert statuses(tmp_path / "outside") == {("correct", "3 s")}
    code, out, err = opsd(f"sample --file good.jsonl --n 8 --json {outside}")
    assert code == 0, err
    assert {entry["status"] for entry in json.loads(out)["completions"]} == {"correct"}


@pytest.mark.usefixtures("lenient")
def test_only_regrading_changes_the_grader_of_an_evaluation(opsd: Opsd, tmp_path: Path) -> None:
    evaluate = "eval --benchmark good.jsonl --json --out e"
    assert opsd(f"{evaluate} --set grading.grader=lenient")[0] == 0
    code, out, err = opsd(f"{evaluate} --resume --samples 2")
    assert code == 0 and accuracy(out) == 1, err
    code, _, err = opsd(f"{evaluate} --resume --set grading.grader=math")
    assert code == 2 and "other settings: grader" in err
    code, out, err = opsd(f"{evaluate} --regrade --set grading.grader=math")
    assert code == 0 and accuracy(out) < 1 and json.loads(out)["changed"] > 0, err
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["grader"] == "math"


def test_an_evaluation_without_the_grader_key_is_resumed_and_regraded(
    opsd: Opsd, tmp_path: Path
) -> None:
    evaluate = "eval --benchmark good.jsonl --json --out e"
    assert opsd(evaluate)[0] == 0
    for name in ("config.yaml", "evaluation.json"):
        without_grader(tmp_path / "e" / name)
    code, out, err = opsd(f"{evaluate} --regrade")
    assert code == 0 and json.loads(out)["changed"] == 0, err
    without_grader(tmp_path / "e" / "evaluation.json")
    code, out, err = opsd(f"{evaluate} --resume --samples 3")
    assert code == 0 and json.loads(out)["benchmarks"]["good.jsonl"]["samples"] == 3, err


def test_a_run_without_the_grader_key_is_resumed(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = "train --json --set data.train=good.jsonl"
    for setting in ("steps=4", "questions_per_step=8", "evaluate_every=2", "checkpoint_every=2"):
        train += f" --set train.{setting}"
    assert opsd(f"{train} --out whole")[0] == 0
    steps = iter(range(3))
    apply, to_yaml = FakePolicy.apply, run_directory.to_yaml
    with monkeypatch.context() as patch:

        def crash(policy: FakePolicy, learning_rate: float) -> float:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return apply(policy, learning_rate)

        patch.setattr(FakePolicy, "apply", crash)
        patch.setattr(
            run_directory, "to_yaml", lambda config: to_yaml(config).replace("  grader: math\n", "")
        )
        code, _, err = opsd(f"{train} --out run")
        assert code == 130, err
    assert "grader" not in (tmp_path / "run" / "config.yaml").read_text()
    code, out, err = opsd("train --resume --out run --json")
    assert code == 0, err
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert json.loads(out)["accuracy"] == whole["accuracy"] and json.loads(out)["steps"] == 4
