"""Preflight, evaluation and collapse metrics of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.errors import PreflightFailed
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import (
    begin,
    run_config,
)


@pytest.mark.parametrize("cut", [False, True])
def test_preflight_failure_says_whether_samples_were_cut_off(tmp_path: Path, cut: bool) -> None:
    settings = ["sampling.max_new_tokens=4"] if cut else []
    with pytest.raises(PreflightFailed) as caught:
        begin(tmp_path / "run", *settings, policy=FakePolicy(skill=0.5, taught=0.0))
    assert ("cut off at 4 tokens" in caught.value.message) == cut
    assert ("sampling.max_new_tokens" in caught.value.hint) == cut
    assert "To train regardless: --set preflight.enabled=false" in caught.value.hint


def test_evaluation_sets_with_the_same_problem_ids_get_their_own_prompts(tmp_path: Path) -> None:
    """With ids 1 to 20 in both, the test split was once measured on the questions of validation."""
    from dataclasses import replace

    from opsd_cli.problems.sources import told_apart

    renamed = {
        name: replace(
            each,
            problems=tuple(
                replace(p, id=str(n), source="problems.jsonl")
                for n, p in enumerate(each.problems)
            ),
        )
        for name, each in (
            ("train", SPLITS.train), ("validation", SPLITS.validation), ("test", SPLITS.test)
        )
    }  # fmt: skip
    splits = replace(SPLITS, **told_apart(renamed))
    policy = FakePolicy(skill=1.0, gain=0.0)
    with Run.create(
        tmp_path / "run", run_config("train.steps=1", "preflight.enabled=false"), {}
    ) as run:
        result = train(policy, splits, run)
    assert result.accuracy["base"].value == 1.0
    rows = [r for r in read_rows(tmp_path / "run" / run_directory.EVALUATIONS) if r["step"] == 0]
    assert {row["split"]: set(row["correct"]) for row in rows} == {
        "validation": {1.0}, "test": {1.0},
    }  # fmt: skip
    prompts = {request.prompt_ids for request in policy.drawn}
    seeds = {request.seed for request in policy.drawn}
    assert len(prompts) == len(seeds) == 30 + 20 + 5


def test_collapse_metrics_are_written_once(finished_run: Path) -> None:
    for row in read_rows(finished_run / run_directory.METRICS):
        assert "metrics" not in row and "completion_tokens" in row
