"""`train.test_at_end`: the test split is measured after the last step, with the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import Interrupted, RunError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.planning.token_plan import Lengths, token_plan
from tests.support.fakes import FakePolicy, StopAfter
from tests.support.small_problems import SPLITS
from tests.support.training_runs import CLOCK_KEYS, StopWithin, begin, learner, resume

#: Validated at steps 2, 4 and 6, with a checkpoint of step 6 alone.
LATER = ("train.test_at_end=true", "train.keep_checkpoints=1", "train.checkpoint_every=6")


def rows_of(run: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The measurements of a run by split and step, without what depends on clock and order."""
    without = {*CLOCK_KEYS, "ledger"}
    return {
        (row["split"], row["step"]): {k: v for k, v in row.items() if k not in without}
        for row in read_rows(run / "evaluations.jsonl")
    }


def asked_for_test(policy: FakePolicy) -> bool:
    """Whether a test problem was ever put before the policy."""
    drawn = {policy.tokenizer.decode(request.prompt_ids) for request in policy.drawn}
    return any(p.question in text for p in SPLITS.test.problems for text in drawn)


@pytest.mark.parametrize("curve", [False, True])
def test_test_at_end_measures_the_same_accuracies(tmp_path: Path, curve: bool) -> None:
    usual = begin(tmp_path / "usual", f"train.curve={curve}")
    later = begin(tmp_path / "later", f"train.curve={curve}", *LATER)
    assert later.accuracy == usual.accuracy and later.best_step == usual.best_step
    assert later.tokens == usual.tokens
    assert rows_of(tmp_path / "later") == rows_of(tmp_path / "usual")
    test = [r for r in read_rows(tmp_path / "later/evaluations.jsonl") if r["split"] == "test"]
    training = {r["step"]: r for r in read_rows(tmp_path / "usual/evaluations.jsonl")}
    for row in test:  # the cost of a step is what training had spent by then
        assert row["ledger"]["generated"] == training[row["step"]]["ledger"]["generated"]
    kept = {path.name for path in (tmp_path / "later/checkpoints").iterdir()}
    assert kept == {f"step-{step:06d}" for step in {6, later.best_step}}


def test_test_at_end_without_grades_takes_the_teacher_of_each_step_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moving average is not in the adapter's files but in the checkpoint's state."""
    policy = learner()
    monkeypatch.setattr(policy, "load_adapter", lambda folder: pytest.fail("the adapter alone"))
    begin(tmp_path / "run", "train.curve=true", "grading.grader=none", *LATER, policy=policy)
    assert {step for split, step in rows_of(tmp_path / "run") if split == "test"} == {0, 2, 4, 6}


def test_test_at_end_samples_no_test_problem_before_the_last_step(tmp_path: Path) -> None:
    policy, stop = learner(), StopAfter(4)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.curve=true", *LATER, policy=policy, listener=stop, stop=stop)
    assert policy.drawn and not asked_for_test(policy)
    assert {split for split, _ in rows_of(tmp_path / "run")} == {"validation"}
    resume(tmp_path / "run", policy=policy)
    assert asked_for_test(policy)
    assert {step for split, step in rows_of(tmp_path / "run") if split == "test"} == {0, 2, 4, 6}


def test_test_at_end_resumes_within_its_measurements(tmp_path: Path) -> None:
    stop = StopWithin("test (step 4)", 7)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.curve=true", *LATER, listener=stop, stop=stop)
    policy = learner()
    result = resume(tmp_path / "run", policy=policy)
    problems = len(SPLITS.test.problems)
    assert len(policy.drawn) == 2 * problems - 7  # the rest of step 4, and step 6
    usual = begin(tmp_path / "usual", "train.curve=true")
    assert result.accuracy == usual.accuracy
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "usual")


def test_test_at_end_refuses_a_lost_checkpoint(tmp_path: Path) -> None:
    stop = StopWithin("test (step 2)", 3)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "train.curve=true", *LATER, listener=stop, stop=stop)
    shutil.rmtree(tmp_path / "run/checkpoints/step-000002")
    with pytest.raises(RunError, match="step-000002 is missing"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("curve", [False, True])
def test_test_at_end_is_planned(curve: bool) -> None:
    settings = ["train.steps=6", "train.evaluate_every=2", f"train.curve={curve}"]
    usual = token_plan(resolve(None, settings), SPLITS, Lengths(1, 1, 1))
    later = token_plan(
        resolve(None, [*settings, "train.test_at_end=true"]), SPLITS, Lengths(1, 1, 1)
    )
    assert later.most == usual.most
    assert later.first.total == usual.first.total - len(SPLITS.test.problems)
