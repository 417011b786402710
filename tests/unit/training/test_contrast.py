"""What a run's log, metrics and page say of the wrong references that its teacher read."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.reports.run_report import build_page
from opsd_cli.training import run_directory
from tests.support.fakes import FakePolicy
from tests.support.training_runs import begin

SETTINGS = (
    "divergence.vocabulary=sampled", "preflight.enabled=false", "train.steps=2",
    "train.test_at_end=true",
)  # fmt: skip


def rows_of(run: Path, log: str) -> list[dict[str, object]]:
    return list(read_rows(run / log))


def test_each_rollout_in_the_log_has_the_prompt_with_the_wrong_rollout(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = (*SETTINGS, "teacher.contrast=wrong_rollout", "rollouts.per_question=3")
    result = begin(run, *settings, policy=FakePolicy(skill=0.3, gain=0.0))
    rollouts = rows_of(run, run_directory.ROLLOUTS)
    for row in rollouts:
        wrong = {
            each["completion"] for each in rollouts
            if (each["step"], each["problem_id"]) == (row["step"], row["problem_id"])
            and not each["correct"]
        } - {row["completion"]}  # fmt: skip
        assert (row["contrast_prompt"] is None) == (row["teacher_prompt"] is None) == (not wrong)
        assert all(f"\n{text}\n" in str(row["contrast_prompt"]) for text in wrong)
        assert all(f"\n{text}\n" not in str(row["teacher_prompt"]) for text in wrong)
    for metrics in rows_of(run, run_directory.METRICS):
        mine = [each for each in rollouts if each["step"] == metrics["step"]]
        skipped = sum(each["contrast_prompt"] is None for each in mine) / len(mine)
        assert metrics["rollouts_skipped"] == metrics["contrast_missing"] == skipped > 0.5
    (remark,) = (each for each in result.remarks if "left out" in each)
    assert "had no wrong one (teacher.contrast)" in remark
    assert "prompt with the wrong reference as sent" in build_page(run)


@pytest.mark.parametrize("contrast", ["none", "other_problem"])
def test_the_first_rollout_of_a_question_has_the_prompt_with_the_other_problems_reference(
    contrast: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(run, *SETTINGS, f"teacher.contrast={contrast}", "rollouts.per_question=2")
    (first, second, *_), metrics = (
        rows_of(run, log) for log in (run_directory.ROLLOUTS, run_directory.METRICS)
    )
    assert ("contrast_prompt" in first) == (contrast == "other_problem")
    assert first.get("contrast_prompt") != first["teacher_prompt"] != second.get("teacher_prompt")
    assert "contrast_prompt" not in second
    assert [row.get("rollouts_skipped", 0.0) for row in metrics] == [0.0, 0.0]
