"""Sources of a teacher's reference beside each other: which are possible, and which is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.cli.console import Output
from opsd_cli.cli.preflight import show_sources
from opsd_cli.errors import UsageError
from opsd_cli.evaluation.samples import Evaluation, Sample, assemble
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.planning.preflight_plan import preflight_plan
from opsd_cli.planning.token_plan import Lengths
from opsd_cli.problems import Problem
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import Reference
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.training.preflight_check import PreflightResult, check
from opsd_cli.training.preflight_comparison import (
    Compared,
    control_does_as_well,
    others_references,
    recommendation,
)
from opsd_cli.training.preflight_sources import chosen_sources, possible_sources
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import run_config

PROBLEMS = SPLITS.train.problems
SMALL = ("preflight.problems=6",)


def compared(*settings: str, sources: tuple[str, ...], directory: Path | None = None) -> Any:
    """The result of a preflight with these sources, and the policy."""
    policy = FakePolicy(skill=0.5, taught=1.0)
    config = run_config(*SMALL, *settings)
    found = check(policy, SPLITS, config, directory, sources=sources)
    return found, policy


def answered(name: str, right: list[bool]) -> Evaluation:
    samples = [
        Sample(f"p{n}", 0, "x", 1, "stop", None, "wrong", each) for n, each in enumerate(right)
    ]
    return assemble(name, [f"p{n}" for n in range(len(right))], samples, 1)


def row(reference: str, right: list[bool], goes_on: bool = True) -> dict[str, Any]:
    value = sum(right) / len(right)
    return {
        "reference": reference, "problems": len(right), "goes_on": goes_on,
        "teacher": {"value": value, "low": 0, "high": 1},
    }  # fmt: skip


def test_possible_sources_are_those_that_problems_and_grader_have() -> None:
    assert possible_sources(run_config(), PROBLEMS) == ("solution", "answer", "sibling")
    unsolved = [Problem("a", "1 + 1", None, "2", "made")]
    config = run_config("teacher.reference=answer", "data.fields=[hint]")
    assert possible_sources(config, unsolved) == ("answer", "sibling", "hint")
    judged = run_config("grading.grader=json", "teacher.reason_first=true")
    assert possible_sources(judged, unsolved) == ("solution", "answer")
    larger = run_config("teacher.model=org/larger", "teacher.reference=none")
    assert possible_sources(larger, PROBLEMS)[:2] == ("none", "solution")
    same = run_config("model=embedded", "teacher.model=embedded")
    assert possible_sources(same, PROBLEMS) == ("solution", "answer", "sibling")
    judged = run_config("grading.grader=json")
    assert "feedback" in possible_sources(judged, unsolved)


@pytest.mark.parametrize(
    ("named", "said"),
    [("hint", "no column 'hint'"), ("feedback", "needs a grader that says what is wrong")],
)
def test_named_sources_that_are_not_possible_are_refused(named: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen_sources(run_config(), PROBLEMS, [named])
    with pytest.raises(UsageError, match="is the student's own model"):
        chosen_sources(run_config("model=embedded", "teacher.model=embedded"), PROBLEMS, ["none"])
    assert chosen_sources(run_config(), PROBLEMS, ["answer"]) == ("solution", "answer")


def test_compared_sources_share_the_students_completions_and_attempts(tmp_path: Path) -> None:
    sources = ("solution", "answer", "sibling")
    found, policy = compared(sources=sources, directory=tmp_path)
    assert isinstance(found, PreflightResult) and found.compared is not None
    rows = found.compared.rows
    assert [each["reference"] for each in rows] == list(sources)
    assert [each["problems"] for each in rows[:2]] == [6, 6]
    assert rows[0]["student"] == rows[1]["student"] == found.record["student"]
    assert rows[0]["teacher"] == found.record["teacher"]
    assert rows[0]["signal"]["attempts"] == rows[1]["signal"]["attempts"] > 0
    # Student 6, teacher 6 + 6 + those with a sibling, and 8 attempts at each of 6.
    assert len(policy.drawn) == 12 + 6 + rows[2]["problems"] + 48
    written = json.loads((tmp_path / "preflight-sources.json").read_text())
    assert written == found.compared.as_dict()
    samples = list(read_rows(tmp_path / "preflight-sources-samples.jsonl"))
    assert {each["role"] for each in samples} >= {"student", "scored", "teacher: answer"}


def test_compared_sources_take_no_more_than_their_plan() -> None:
    sources = ("solution", "answer", "sibling")
    config = run_config(*SMALL, "sampling.max_new_tokens=40")
    found, policy = compared("sampling.max_new_tokens=40", sources=sources)
    builder = PromptBuilder(config, policy.tokenizer)
    sibling = Reference("x" * 40, "sibling")
    teacher = max(len(builder.teacher(PROBLEMS[5], reference=each).ids) for each in (None, sibling))
    lengths = Lengths(len(builder.student(PROBLEMS[5]).ids), teacher, 0)
    plan = preflight_plan(config, PROBLEMS, sources, lengths)
    both = [found.record["spent"], found.compared.as_dict()["spent"]]
    assert len(policy.drawn) <= plan.completions
    for kind, most in (
        ("evaluation", plan.completion_tokens_at_most),
        ("teacher_scored", plan.teacher_scored_tokens_at_most),
        ("scored", plan.scored_tokens_at_most),
    ):
        assert 0 < sum(each[kind] for each in both) <= most, kind


def test_compared_source_that_no_problem_has_is_said_to_be_absent() -> None:
    unsolved = tuple(Problem(p.id, p.question, None, p.answer, p.source) for p in PROBLEMS)
    train = SPLITS.train.__class__(SPLITS.train.name, unsolved, SPLITS.train.report)
    splits = Splits(train, SPLITS.validation, SPLITS.test)
    config = run_config("preflight.problems=10", "teacher.reference=answer")
    found = check(FakePolicy(skill=0.0), splits, config, sources=("answer", "solution"))
    assert found.compared is not None
    assert found.compared.rows[1] == {"reference": "solution", "problems": 0, "goes_on": False}
    assert found.compared.recommended == "answer"


def test_reference_of_another_problem_has_another_answer_and_another_text() -> None:
    problems = [Problem(f"p{n}", "?", None, answer, "made") for n, answer in enumerate("1123")]
    references = {p.id: Reference(f"is {p.answer}", "answer") for p in problems}
    found = others_references(problems, references)
    assert [found[p.id].text for p in problems] == ["is 2", "is 2", "is 3", "is 1"]
    assert others_references(problems[:2], references) == {}


def test_recommendation_is_the_clearly_best_the_only_one_or_none() -> None:
    good, poor = [True] * 20, [True] + [False] * 19
    completions = {"teacher: a": answered("a", good), "teacher: b": answered("b", poor)}
    assert recommendation([row("a", good), row("b", poor)], completions)[0] == "a"
    alike = {"teacher: a": answered("a", good), "teacher: b": answered("b", good)}
    name, reason = recommendation([row("a", good), row("b", good)], alike)
    assert name is None and "cannot be told apart" in reason and "a, b" in reason
    name, reason = recommendation([row("a", good, False), row("b", poor)], completions)
    assert name == "b" and "the only one" in reason
    assert recommendation([row("a", good, False)], completions)[0] is None


def test_control_does_as_well_where_it_helps_within_the_interval_of_the_signal() -> None:
    def signal(value: float, low: float) -> dict[str, Any]:
        gap = {"right": 1.0, "wrong": -1.0, "total": 4.0}
        return {
            "preference": {"value": value, "low": low, "high": 1.0}, "questions": 9, "gap": gap
        }  # fmt: skip

    assert control_does_as_well({"signal": signal(0.9, 0.7), "control": signal(0.8, 0.6)})
    assert not control_does_as_well({"signal": signal(0.9, 0.85), "control": signal(0.8, 0.6)})
    assert not control_does_as_well({"signal": signal(0.9, 0.7), "control": signal(0.8, 0.4)})


@pytest.mark.parametrize(
    ("goes_on", "cause", "problems", "said"),
    [
        (True, "gain_uncertain", 3, "may be chance"),
        (True, "gain", 16, "yes"),
        (False, "too_hard", 3, "too few to tell"),
        (False, "too_hard", 8, "no"),
    ],
)
def test_table_of_sources_says_what_may_be_chance(
    goes_on: bool, cause: str, problems: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    signal = {"preference": None, "questions": 0, "attempts": 0, "gap": {}}
    measured = row("answer", [goes_on] + [False] * (problems - 1), goes_on)
    measured |= {"cause": cause, "signal": signal, "control": signal}
    recommended, reason = recommendation([measured], {})
    show_sources(Compared((measured,), recommended, reason, TokenLedger(), {}), Output(json=False))
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("answer  "))
    assert line.rstrip().endswith(f" {said}")
    assert (recommended == "answer") == (cause == "gain")
    assert ("that may be chance" in reason) == (cause == "gain_uncertain")
    assert ("too few problems to tell" in reason) == (said == "too few to tell")
