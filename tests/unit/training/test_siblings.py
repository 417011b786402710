"""Runs whose teacher reads right rollouts of the same question: preflight, logs, page, resume."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import Rollout
from opsd_cli.errors import Interrupted, PreflightFailed
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.planning.before_step_1 import before_step_1
from opsd_cli.reports.run_report import build_page
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import StopWithin, begin, resume, run_config, run_contents

SIBLING = ("teacher.reference=sibling", "rollouts.per_question=3")


class Notes(Listener):
    """Collects notes and the preflight's numbers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.measured: list[Any] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def preflight(self, *numbers: Any) -> None:
        self.measured.append(numbers)


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    return list(read_rows(run / name))


def test_preflight_compares_on_the_problems_that_have_a_sibling(tmp_path: Path) -> None:
    run, notes = tmp_path / "run", Notes()
    policy = FakePolicy(skill=0.3, gain=0.1)
    begin(run, *SIBLING, policy=policy, listener=notes)
    record = json.loads((run / run_directory.PREFLIGHT).read_text())
    counts, measured = record["siblings"], record["problems"]
    assert counts == {"problems": 32, "found": measured, "rollouts": 3} and 0 < measured < 32
    assert f"{measured} of the preflight's 32 problems have a right rollout" in notes.notes[0]
    (student, teacher, problems), *_ = notes.measured
    assert problems == measured and teacher.value > student.value
    samples = rows_of(run, run_directory.PREFLIGHT_SAMPLES)
    solved = {s["problem_id"] for s in samples if s["role"] == "sibling" and s["correct"]}
    for role, count in (("sibling", 32 * 3), ("student", measured), ("teacher", measured)):
        mine = [s for s in samples if s["role"] == role]
        assert len(mine) == count
        assert role == "sibling" or {s["problem_id"] for s in mine} == solved
    assert record["spent"]["evaluation"] == sum(s["tokens"] for s in samples)
    # The student's measured sample is not one of those that decide whether there is a sibling.
    asked = [
        r for r in policy.drawn[: 32 * 3 + measured] if r.problem_id == samples[0]["problem_id"]
    ]
    assert len({r.seed for r in asked}) == len(asked)


def test_preflight_measures_all_problems_where_an_answer_stands_in(tmp_path: Path) -> None:
    notes = Notes()
    begin(tmp_path / "run", *SIBLING, "teacher.without_reference=answer", listener=notes)
    record = json.loads((tmp_path / "run" / run_directory.PREFLIGHT).read_text())
    assert record["problems"] == 32 > record["siblings"]["found"]


def test_preflight_without_any_sibling_fails_and_keeps_the_rollouts(tmp_path: Path) -> None:
    with pytest.raises(PreflightFailed, match="no sibling for the teacher to read") as caught:
        begin(tmp_path / "run", *SIBLING, policy=FakePolicy(skill=0.0))
    assert "none of the preflight's 32 problems has a right rollout among 3" in caught.value.message
    assert "teacher.without_reference=answer" in caught.value.hint
    kept = tmp_path / "run-failed-preflight"
    assert f"every completion is in {kept}/" in caught.value.message
    samples = rows_of(kept, run_directory.PREFLIGHT_SAMPLES)
    assert [s["role"] for s in samples] == ["sibling"] * 96


def test_preflight_fails_where_a_sibling_does_not_help(tmp_path: Path) -> None:
    with pytest.raises(PreflightFailed, match="the reference does not help"):
        begin(tmp_path / "run", *SIBLING, policy=FakePolicy(skill=0.5, taught=0.0))


@pytest.mark.parametrize("phase", ["preflight: siblings", "preflight: teacher", "rollouts"])
def test_a_run_with_siblings_resumes_to_the_same_files(phase: str, tmp_path: Path) -> None:
    begin(tmp_path / "whole", *SIBLING, "teacher.sibling=random")
    stop = StopWithin(phase, 4, nth=3 if phase == "rollouts" else 1)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", *SIBLING, "teacher.sibling=random", listener=stop, stop=stop)
    resume(tmp_path / "run")
    assert run_contents(tmp_path / "run") == run_contents(tmp_path / "whole")


@pytest.mark.parametrize("fallback", ["skip", "answer"])
def test_each_rollout_in_the_log_has_the_prompt_that_the_teacher_read(
    fallback: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(run, *SIBLING, f"teacher.without_reference={fallback}")
    rollouts = rows_of(run, run_directory.ROLLOUTS)
    assert len(rollouts) == 6 * 5 * 3
    for row in rollouts:
        group = [
            each for each in rollouts
            if (each["step"], each["problem_id"]) == (row["step"], row["problem_id"])
        ]  # fmt: skip
        right = {each["completion"] for each in group if each["correct"]} - {row["completion"]}
        text = row["teacher_prompt"]
        if right:
            assert "earlier solution" in text and f"[solution begins]\n{right.pop()}\n" in text
        else:
            assert text is None if fallback == "skip" else "[answer begins]" in text
        assert (row["divergence"] is None) == (text is None)
        assert ("prompt" in row) == (row["sample_index"] == 0)


def test_skipped_rollouts_are_in_the_metrics_and_in_a_remark(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = begin(run, *SIBLING)
    rollouts = rows_of(run, run_directory.ROLLOUTS)
    for row in rows_of(run, run_directory.METRICS):
        mine = [each for each in rollouts if each["step"] == row["step"]]
        skipped = sum(each["teacher_prompt"] is None for each in mine) / len(mine)
        assert row["rollouts_skipped"] == row["siblings_missing"] == pytest.approx(skipped)
    (remark,) = result.remarks
    assert "the teacher had no reference for" in remark and "teacher.without_reference" in remark
    assert remark[1:] in build_page(run)
    fallback = begin(tmp_path / "fallback", *SIBLING, "teacher.without_reference=answer")
    assert not fallback.remarks


def test_the_copied_share_is_of_the_reference_that_the_teacher_read(tmp_path: Path) -> None:
    class Wordy(FakePolicy):
        """Right and wrong completions share most of their words."""

        def generate(self, requests: Any, *rest: Any, **more: Any) -> Any:
            for rollout in super().generate(requests, *rest, **more):
                words = f"{rollout.request.sample_index} so then we add one to it and get "
                text = words + self.tokenizer.decode(rollout.completion_ids)
                ids = tuple(self.tokenizer.encode(text))
                zeros = np.zeros(len(ids), np.float32)
                yield Rollout(rollout.request, ids, zeros, rollout.finish_reason)

    sibling, solution = (tmp_path / name for name in ("sibling", "solution"))
    settings = ("preflight.enabled=false", "rollouts.per_question=3")
    begin(sibling, *settings, "teacher.reference=sibling", policy=Wordy(skill=0.9))
    begin(solution, *settings, policy=Wordy(skill=0.9))
    assert rows_of(sibling, run_directory.METRICS)[-1]["copied"] > 0.5
    assert rows_of(solution, run_directory.METRICS)[-1]["copied"] < 0.1


def test_the_rollouts_before_step_1_count_those_among_which_siblings_are_looked_for(
    tmp_path: Path,
) -> None:
    policy = FakePolicy(skill=0.3, gain=0.1)
    settings = (*SIBLING, "teacher.without_reference=answer", "preflight.problems=10")
    begin(tmp_path / "run", *settings, policy=policy)
    samples = rows_of(tmp_path / "run", run_directory.PREFLIGHT_SAMPLES)
    sizes = {name: len(each.problems) for name, each in SPLITS.named().items()}
    assert before_step_1(run_config(*settings), sizes).preflight == len(samples) == 10 * (3 + 2)


@pytest.mark.parametrize("settings", [(), SIBLING])
def test_the_rollouts_before_step_1_count_the_attempts_of_a_reference_that_does_not_help(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    settings = (*settings, "preflight.problems=10", "teacher.without_reference=answer")
    with contextlib.suppress(PreflightFailed):  # or the scores of the attempts tell the right ones
        begin(tmp_path / "run", *settings, policy=FakePolicy(skill=0.5, taught=0.0))
    kept = next(tmp_path.rglob(run_directory.PREFLIGHT_SAMPLES))
    sampled = len(kept.read_text().splitlines())
    first = before_step_1(
        run_config(*settings), {name: len(each.problems) for name, each in SPLITS.named().items()}
    )
    assert sampled == first.most - first.validation - first.test
    assert f"{first.most:,} if the reference does not help" in first.sentence
