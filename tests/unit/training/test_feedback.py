"""Runs whose teacher reads what the grader said of each rollout: preflight, logs, page, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.errors import Interrupted, PreflightFailed
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.planning.before_step_1 import before_step_1
from opsd_cli.reports.run_report import build_page
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import StopWithin, begin, resume, run_config, run_contents

RULES = r"""
def score(problem, completion):
    if "{%s}" % problem.answer in completion:
        return True
    return False, f"{completion} is not the sum"

def silent(problem, completion):
    return False
"""


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def feedback(tmp_path: Path) -> tuple[str, ...]:
    """Settings of a teacher that reads what a function says of wrong sums."""
    (tmp_path / "rules.py").write_text(RULES)
    return ("teacher.reference=feedback", f"grading.grader={tmp_path / 'rules.py'}:score")


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    return list(read_rows(run / name))


def test_preflight_compares_on_the_problems_that_have_feedback(
    tmp_path: Path, feedback: tuple[str, ...]
) -> None:
    run, notes = tmp_path / "run", Notes()
    begin(run, *feedback, listener=notes)
    record = json.loads((run / run_directory.PREFLIGHT).read_text())
    measured = record["problems"]
    assert record["feedback"] == {"problems": 32, "found": measured, "rollouts": 1}
    assert 0 < measured < 32
    assert notes.notes[0] == (
        f"{measured} of the preflight's 32 problems have a rollout with feedback (one sampled "
        f"for each); the teacher reads the feedback; compared on {measured}"
    )
    samples = rows_of(run, run_directory.PREFLIGHT_SAMPLES)
    told = {s["problem_id"] for s in samples if s["role"] == "attempt" and "feedback" in s}
    for role, count in (("attempt", 32), ("student", measured), ("teacher", measured)):
        mine = [s for s in samples if s["role"] == role]
        assert len(mine) == count
        assert role == "attempt" or {s["problem_id"] for s in mine} == told


def test_preflight_reads_the_feedback_on_a_wrong_rollout_where_several_are_drawn(
    tmp_path: Path, feedback: tuple[str, ...]
) -> None:
    class Reading(FakePolicy):
        """Keeps what the teacher is asked."""

        asked: tuple[str, ...] = ()

        def generate(self, requests: Any, *rest: Any, **more: Any) -> Any:
            texts = [self.tokenizer.decode(request.prompt_ids) for request in requests]
            self.asked += tuple(text for text in texts if "[feedback begins]" in text)
            return super().generate(requests, *rest, **more)

    policy = Reading(skill=0.3)
    begin(tmp_path / "run", *feedback, "rollouts.per_question=3", policy=policy)
    samples = rows_of(tmp_path / "run", run_directory.PREFLIGHT_SAMPLES)
    wrong = [s for s in samples if s["role"] == "attempt" and not s["correct"]]
    first = {s["problem_id"]: s["feedback"] for s in reversed(wrong)}
    assert len(policy.asked) == len(first)
    for text in first.values():
        assert any(f"[feedback begins]\n{text}\n" in asked for asked in policy.asked)


def test_preflight_without_any_feedback_fails(tmp_path: Path, feedback: tuple[str, ...]) -> None:
    silent = f"grading.grader={tmp_path / 'rules.py'}:silent"
    with pytest.raises(PreflightFailed, match="no feedback for the teacher to read") as caught:
        begin(tmp_path / "run", *feedback, silent)
    assert "none of the preflight's 32 problems has a rollout with feedback" in caught.value.message
    assert "teacher.without_reference=answer" in caught.value.hint
    samples = rows_of(tmp_path / "run-failed-preflight", run_directory.PREFLIGHT_SAMPLES)
    assert [s["role"] for s in samples] == ["attempt"] * 32


@pytest.mark.parametrize("phase", ["preflight: feedback", "preflight: teacher", "rollouts"])
def test_a_run_with_feedback_resumes_to_the_same_files(
    phase: str, tmp_path: Path, feedback: tuple[str, ...]
) -> None:
    begin(tmp_path / "whole", *feedback)
    stop = StopWithin(phase, 4, nth=3 if phase == "rollouts" else 1)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", *feedback, listener=stop, stop=stop)
    resume(tmp_path / "run")
    assert run_contents(tmp_path / "run") == run_contents(tmp_path / "whole")


@pytest.mark.parametrize("fallback", ["skip", "answer"])
def test_each_rollout_in_the_log_has_its_own_feedback_or_what_stands_in(
    fallback: str, tmp_path: Path, feedback: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    settings = (*feedback, "rollouts.per_question=2", f"teacher.without_reference={fallback}")
    begin(run, *settings)
    rollouts = rows_of(run, run_directory.ROLLOUTS)
    assert len(rollouts) == 6 * 5 * 2 and len({row["correct"] for row in rollouts}) == 2
    for row in rollouts:
        text = row["teacher_prompt"]
        if not row["correct"]:
            told = f"{row['completion']} is not the sum"
            assert f"[feedback begins]\n{told}\n[feedback ends]" in text
        else:
            assert text is None if fallback == "skip" else "[answer begins]" in text
        assert (row["divergence"] is None) == (text is None)


def test_rollouts_without_feedback_are_in_the_metrics_and_in_a_remark(
    tmp_path: Path, feedback: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    result = begin(run, *feedback, "preflight.enabled=false", policy=FakePolicy(skill=0.8))
    rollouts = rows_of(run, run_directory.ROLLOUTS)
    for row in rows_of(run, run_directory.METRICS):
        mine = [each for each in rollouts if each["step"] == row["step"]]
        right = sum(each["correct"] for each in mine) / len(mine)
        assert row["rollouts_skipped"] == row["feedback_missing"] == pytest.approx(right)
        assert "siblings_missing" not in row
    (remark,) = (each for each in result.remarks if "the teacher had no reference" in each)
    assert "the grader said nothing of them" in remark and "other right rollout" not in remark
    assert "teacher.without_reference" in remark and remark[1:] in build_page(run)


def test_the_rollouts_before_step_1_count_those_that_feedback_is_on(
    tmp_path: Path, feedback: tuple[str, ...]
) -> None:
    settings = (*feedback, "teacher.without_reference=answer", "preflight.problems=10")
    begin(tmp_path / "run", *settings)
    samples = rows_of(tmp_path / "run", run_directory.PREFLIGHT_SAMPLES)
    sizes = {name: len(each.problems) for name, each in SPLITS.named().items()}
    assert before_step_1(run_config(*settings), sizes).preflight == len(samples) == 10 * (1 + 2)
