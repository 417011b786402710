"""What the end of a run says where it learnt nothing or finished no rollout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.reports.run_report import build_page
from opsd_cli.training import run_directory
from opsd_cli.training.remarks import remarks
from opsd_cli.training.result import TrainResult
from tests.support.fakes import FakePolicy
from tests.support.training_runs import begin


def step(number: int, **more: Any) -> dict[str, Any]:
    return {"step": number, "grad_norm": 1.0, "ledger": {"trained": 9}, **more}


def validation(number: int, value: float, split: str = "validation") -> dict[str, Any]:
    return {"step": number, "split": split, "accuracy": {"value": value}}


@pytest.mark.parametrize(
    ("metrics", "evaluations", "said"),
    [
        ([], [], []),
        ([step(1, truncated=1.0), step(2, truncated=0.9)], [], []),
        (
            [step(1, truncated=1.0, completion_tokens_max=63), step(2), step(3, truncated=1.0)],
            [],
            ["every rollout was cut off, the longest at 63 tokens"],
        ),
        ([step(1, rollouts_skipped=0.4), step(2, rollouts_skipped=0.5)], [], []),
        (
            [step(1, rollouts_skipped=0.4), step(2, rollouts_skipped=0.8)],
            [],
            ["the teacher had no reference for 60.0% of the rollouts"],
        ),
        (
            [step(1, rollouts_skipped=0.6, contrast_missing=0.4, siblings_missing=0.33)],
            [],
            ["60.0% of the rollouts were left out, and 40.0% of those with a right reference had"],
        ),
        (
            [step(1, rollouts_skipped=0.6, contrast_missing=0.2, siblings_missing=0.5)],
            [],
            ["the teacher had no reference for 60.0% of the rollouts"],
        ),
        ([step(1, grad_norm=0.0), step(2)], [], []),
        ([step(1, grad_norm=0.0)], [], ["the gradient of every step was 0"]),
        ([step(1, grad_norm=0.0, ledger={"trained": 0})], [], ["no step had a loss batch"]),
        (
            [step(1, grad_norm=0.0, ledger={"trained": 0}, zero_variance_groups=1.0)],
            [],
            ["no step had a loss batch, because the rollouts of each question were all right or"],
        ),
        ([step(1)], [validation(0, 0.5), validation(1, 0.6), validation(2, 0.1)], []),
        ([step(1)], [validation(0, 0.5)], []),
        ([step(1)], [validation(0, 0.5), validation(2, 0.5, "test")], []),
        (
            [step(1)],
            [validation(0, 0.5), validation(2, 0.25), validation(4, 0.5)],
            ["never above the 50.0% before the first step (highest since: 50.0% at step 4)"],
        ),
    ],
)
def test_remarks_of_truncated_rollouts_and_of_runs_that_learnt_nothing(
    metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]], said: list[str]
) -> None:
    found = remarks(metrics, evaluations)
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def test_remarks_are_in_the_result_and_on_the_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = begin(run, "method=grpo", policy=FakePolicy(skill=1.0, gain=0.0))
    assert [sentence.partition(":")[0] for sentence in result.remarks] == [
        "nothing was learnt",
        "validation accuracy was never above the 100.0% before the first step (highest since",
    ]
    stored = json.loads((run / run_directory.RESULT).read_text())
    assert TrainResult.from_dict(stored) == result
    page = build_page(run)
    top = page.partition("<h2>")[0]
    assert "<p class=remark>Nothing was learnt: no step had a loss batch, because" in top
    assert "<p class=remark>Validation accuracy was never above" in top


def test_remarks_of_truncated_rollouts_are_in_the_result(tmp_path: Path) -> None:
    settings = ["sampling.max_new_tokens=4", "evaluation.max_new_tokens=64"]
    result = begin(tmp_path / "run", *settings)
    assert result.remarks[0].startswith("every rollout was cut off, the longest at 4 tokens")


def test_remarks_are_none_where_a_run_went_well(finished_run: Path) -> None:
    assert json.loads((finished_run / run_directory.RESULT).read_text())["remarks"] == []
    assert "<p class=remark>" not in build_page(finished_run)


def test_result_of_an_earlier_version_has_no_remarks(finished_run: Path) -> None:
    stored = json.loads((finished_run / run_directory.RESULT).read_text())
    del stored["remarks"]
    assert TrainResult.from_dict(stored).remarks == ()
