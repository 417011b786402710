"""Runs with `grading.grader: none`: measures, best checkpoint, ledger, resuming, preflight."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import ConfigError, Interrupted, PreflightFailed, RunError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.planning.before_step_1 import preflight_rollouts
from opsd_cli.planning.token_plan import Lengths, token_plan
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.reports import write_picture, write_run_report
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.training.collapse_changes import accuracy_change
from opsd_cli.training.remarks import remarks
from opsd_cli.training.result import TrainResult
from opsd_cli.training.run_directory import Run
from opsd_cli.training.totals import totals_of
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import (
    KilledAfter,
    StopWithin,
    begin,
    resume,
    run_config,
    run_contents,
    run_until_killed,
)

NONE = "grading.grader=none"


def evaluations(directory: Path, split: str = "validation") -> list[dict[str, Any]]:
    return [row for row in read_rows(directory / "evaluations.jsonl") if row["split"] == split]


def test_run_without_grades_selects_the_lowest_held_out_divergence(tmp_path: Path) -> None:
    """The fake's divergence falls as its skill rises; after step 4 this one gets worse again."""

    class Peaking(FakePolicy):
        def apply(self, learning_rate: float) -> float:
            self.skill += 0.1 if self.skill < 0.65 else -0.2
            return 1.0

    result = begin(tmp_path / "run", NONE, policy=Peaking(skill=0.3, gain=0))
    rows = evaluations(tmp_path / "run")
    by_step = {row["step"]: row["divergence"]["value"] for row in rows}
    assert result.best_step == min(by_step, key=by_step.__getitem__) == 4
    assert all(row["accuracy"] is None and row["correct"] is None for row in rows)
    assert all(row["no_answer"] is None and row["reference_log_prob"]["value"] == 0 for row in rows)
    assert result.accuracy == {}
    assert result.divergence["best"].value < result.divergence["base"].value
    stored = json.loads((tmp_path / "run/result.json").read_text())
    assert stored["accuracy"] == {} and TrainResult.from_dict(stored) == result
    rollouts = list(read_rows(tmp_path / "run/rollouts.jsonl"))
    assert {row["correct"] for row in rollouts} == {None}
    assert {row["reward"] for row in read_rows(tmp_path / "run/metrics.jsonl")} == {None}


def test_ledger_counts_what_held_out_measures_read_within_the_plan(tmp_path: Path) -> None:
    result = begin(tmp_path / "run", NONE, policy=FakePolicy(skill=0.3))
    read = TokenLedger()
    for row in read_rows(tmp_path / "run/evaluations.jsonl"):
        read += TokenLedger(**row["read"])
    preflight = json.loads((tmp_path / "run/preflight.json").read_text())
    read += TokenLedger(**preflight["spent"])
    assert read.scored == result.tokens.scored > 0
    last = list(read_rows(tmp_path / "run/metrics.jsonl"))[-1]
    learnt = last["ledger"]["trained"]
    assert (
        result.tokens.teacher_scored > read.teacher_scored > 0 and learnt == result.tokens.trained
    )
    config = run_config(NONE)
    builder = PromptBuilder(config, FakePolicy.tokenizer)
    problems = [problem for each in SPLITS.named().values() for problem in each.problems]
    lengths = Lengths(
        max(len(builder.student(problem).ids) for problem in problems),
        max(len(builder.teacher(problem).ids) for problem in problems),
        max(len(problem.solution or "") for problem in problems),
    )
    most = token_plan(config, SPLITS, lengths).most
    for kind in ("generated", "teacher_scored", "scored", "evaluation", "prompt", "trained"):
        assert getattr(result.tokens, kind) <= getattr(most, kind), kind
    assert preflight_rollouts(config, 40) == 32  # the student's alone
    row = evaluations(tmp_path / "run")[0] | {"step": 99}
    more = totals_of(None, [last], [row]).tokens
    assert more["scored"] == last["ledger"]["scored"] + row["read"]["scored"]


@pytest.mark.parametrize("killer", [KilledAfter(rollouts=32 + 30 + 11), KilledAfter(evaluations=3)])
def test_killed_measurement_without_grades_ends_as_if_never_killed(
    tmp_path: Path, killer: KilledAfter
) -> None:
    """The tokens of a completion are kept until its divergence is measured."""
    begin(tmp_path / "whole", NONE)
    run_until_killed(tmp_path / "killed", killer, NONE)
    resume(tmp_path / "killed")
    whole, killed = run_contents(tmp_path / "whole"), run_contents(tmp_path / "killed")
    assert killed == whole


def test_sft_without_grades_selects_by_the_likelihood_of_the_solutions(tmp_path: Path) -> None:
    class Likely(FakePolicy):
        def score(self, sequences: Any, *role: Any, **more: Any) -> Any:
            return [each + self.skill - 2 for each in super().score(sequences, *role, **more)]

    result = begin(tmp_path / "run", NONE, "method=sft", policy=Likely(skill=0.3))
    assert result.best_step == 6 and result.divergence == {}
    assert result.reference_log_prob["base"].value == pytest.approx(-1.7)
    assert result.tokens.teacher_scored == 0


def test_set_without_solutions_has_no_likelihood(tmp_path: Path) -> None:
    bare = {
        name: replace(each, problems=tuple(replace(p, solution=None) for p in each.problems))
        for name, each in SPLITS.named().items()
    }
    splits = replace(SPLITS, **bare)
    config = run_config(NONE, "teacher.reference=answer", "train.steps=2")
    with Run.create(tmp_path / "run", config, {"packages": {}}) as run:
        result = train(FakePolicy(), splits, run)
    assert result.reference_log_prob == {} and result.divergence.keys() == {"base", "best", "final"}
    assert "reference_log_prob" not in evaluations(tmp_path / "run")[0]


def test_preflight_without_grades_refuses_a_divergence_of_zero(tmp_path: Path) -> None:
    with pytest.raises(PreflightFailed) as caught:
        begin(tmp_path / "run", NONE, policy=FakePolicy(skill=1.0))
    assert "divergence between teacher and student is 0" in caught.value.message
    assert "prompts.teacher.template" in caught.value.hint


def test_preflight_without_grades_refuses_references_that_are_all_cut(tmp_path: Path) -> None:
    config = run_config(
        NONE, "prompts.teacher.template={question}: {solution}", "prompts.teacher.max_tokens=56"
    )
    long = tuple(replace(p, solution=f"{p.solution} " * 9) for p in SPLITS.train.problems)
    splits = replace(SPLITS, train=replace(SPLITS.train, problems=long))
    with (
        Run.create(tmp_path / "run", config, {"packages": {}}) as run,
        pytest.raises(PreflightFailed, match="each of the preflight's 32 problems is cut"),
    ):
        train(FakePolicy(), splits, run)


def test_method_of_rewards_is_refused_without_grades(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grpo learns from rewards") as caught:
        begin(tmp_path / "run", NONE, "method=grpo")
    assert "--method opsd" in caught.value.hint


def test_page_and_remarks_without_grades_show_no_accuracy(tmp_path: Path) -> None:
    begin(tmp_path / "run", NONE, "train.curve=true")
    page = write_run_report(tmp_path / "run").read_text()
    body = page.partition("<details>")[0].partition("</style>")[2]
    assert "divergence from the teacher went from 0.3" in body and "Nothing is graded" in body
    assert "Held-out measures" in body and "on the test split" in body
    assert "nan" not in body and "None" not in body
    assert ", wrong, " not in body and "training rollouts that are right" not in body
    rows = list(read_rows(tmp_path / "run/evaluations.jsonl"))
    assert accuracy_change(rows) is None
    with pytest.raises(RunError, match="no accuracy to draw"):
        write_picture(tmp_path / "run", tmp_path / "run.png")
    first = [row for row in rows if row["step"] == 0]
    assert remarks([], rows) == []
    found = remarks([], [*first, *({**row, "step": 2} for row in first)])
    assert "validation divergence was never below the 0.3" in found[0]


@pytest.mark.parametrize(
    "phase", ["preflight: likelihood", "test (base): divergence", "validation: likelihood"]
)
def test_reading_held_out_text_can_be_stopped_and_the_run_resumes_to_the_same_files(
    tmp_path: Path, phase: str
) -> None:
    begin(tmp_path / "whole", NONE, "train.steps=2")
    stop = StopWithin(phase, 1)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", NONE, "train.steps=2", listener=stop, stop=stop)
    resume(tmp_path / "run")
    assert run_contents(tmp_path / "run") == run_contents(tmp_path / "whole")
