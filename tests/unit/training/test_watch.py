"""The watch set of a run: measured beside the test split, and deciding nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.planning.before_step_1 import before_step_1
from opsd_cli.planning.token_plan import token_plan
from opsd_cli.problems.sources import load_splits
from opsd_cli.reports.run_report import write_run_report
from opsd_cli.training import run_directory
from opsd_cli.training.result import TrainResult
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.small_problems import SPLITS, problem_set
from tests.support.training_runs import Killed, KilledAfter, begin, learner, run_config

WATCH = problem_set("watch", range(90, 97))
WATCHED = replace(SPLITS, watch=WATCH)


def trained(directory: Path, killer: KilledAfter | None = None) -> TrainResult:
    """A run with a watch set, begun or resumed."""
    run = Run.resume(directory) if directory.exists() else Run.create(
        directory, run_config(), {"packages": {}}
    )  # fmt: skip
    with run:
        return train(learner(), WATCHED, run, killer)


def test_watch_accuracy_is_measured_at_the_base_the_best_checkpoint_and_the_end(
    tmp_path: Path,
) -> None:
    result = trained(tmp_path / "run")
    rows = [r for r in read_rows(tmp_path / "run/evaluations.jsonl") if r["split"] == "watch"]
    assert {row["step"] for row in rows} == {0, result.best_step, 6}
    assert all(len(row["correct"]) == 7 and row["problems"] == WATCH.digest() for row in rows)
    assert result.watch_accuracy.keys() == {"base", "best", "final"}
    stored = json.loads((tmp_path / "run" / run_directory.RESULT).read_text())
    assert TrainResult.from_dict(stored) == result
    page = write_run_report(tmp_path / "run").read_text()
    assert "on the watch set" in page


def test_watch_set_changes_neither_the_training_nor_the_checkpoint(tmp_path: Path) -> None:
    without, with_watch = begin(tmp_path / "without"), trained(tmp_path / "with")
    assert with_watch.accuracy == without.accuracy
    assert with_watch.best_step == without.best_step
    watched = sum(
        row["evaluation_tokens"]
        for row in read_rows(tmp_path / "with/evaluations.jsonl")
        if row["split"] == "watch"
    )
    assert with_watch.tokens.evaluation == without.tokens.evaluation + watched
    assert "watch_accuracy" not in json.loads((tmp_path / "without/result.json").read_text())
    assert "on the watch set" not in write_run_report(tmp_path / "without").read_text()


@pytest.mark.parametrize("evaluations", [2, 3, 8])
def test_watch_accuracy_is_measured_once_when_a_run_is_resumed(
    tmp_path: Path, evaluations: int
) -> None:
    whole = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "killed", KilledAfter(evaluations=evaluations))
    resumed = trained(tmp_path / "killed")
    assert resumed.watch_accuracy == whole.watch_accuracy
    assert resumed.tokens == whole.tokens


def test_watch_rollouts_are_in_the_token_plan_and_before_step_1() -> None:
    config = run_config("data.watch=words.jsonl")
    more, less = token_plan(config, WATCHED), token_plan(config, SPLITS)
    samples = config.evaluation.samples
    assert more.evaluation_rollouts == less.evaluation_rollouts + 3 * 7 * samples
    assert more.first.total == less.first.total + 7 * samples
    unread = token_plan(config, None)
    assert unread.problems["watch"] == config.data.watch_problems == 200
    sizes = {split: len(each.problems) for split, each in WATCHED.named().items()}
    first = before_step_1(config, sizes)
    assert first == more.first
    assert f"{7 * samples} of watch" in first.sentence and "data.watch_problems" in first.fewer


def test_watch_set_is_limited_and_an_overlap_is_noted(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 3", "solution": "a sum", "answer": n + 3} for n in range(40)]
    for name, kept in (("train", rows), ("other", rows[35:])):
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    config = resolve(
        None,
        [
            f"data.train={tmp_path}/train.jsonl", f"data.watch={tmp_path}/other.jsonl",
            "data.watch_problems=4",
        ],
    )  # fmt: skip
    splits = load_splits(config)
    assert splits.watch is not None and len(splits.watch.problems) == 4
    assert sum("watch questions are also in the" in note for note in splits.notes) >= 1
    assert "watch" in splits.provenance()
    keys = [problem.key for each in splits.named().values() for problem in each.problems]
    assert len(set(keys)) == len(keys)
