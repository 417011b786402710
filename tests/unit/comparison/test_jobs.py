"""Comparisons that train: their jobs, learning-rate search, progress, and one real comparison."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_cli.comparison.curves import basis_of
from opsd_cli.comparison.jobs import (
    TUNE_SEED_OFFSET,
    comparison_jobs,
    configs_of,
    evaluated_alike,
    plan_of,
    progress_of,
    read_plan,
    tuned,
    tuning_jobs,
    write_plan,
)
from opsd_cli.config.resolve import resolve
from opsd_cli.files.jsonl_log import last_row
from opsd_cli.methods import METHODS
from opsd_cli.processes.child_processes import tied
from opsd_cli.training import run_directory

CONFIGS = {name: resolve(None, [], {"method": name}) for name in ("opsd", "grpo")}


def test_comparison_jobs_alternate_methods_and_share_all_other_settings() -> None:
    jobs = comparison_jobs(CONFIGS, [4, 5])
    assert [job.name for job in jobs] == ["opsd-s4", "grpo-s4", "opsd-s5", "grpo-s5"]
    for job in jobs:
        assert job.config.train.curve and job.config.train.patience is None
    for one, other in zip(jobs[::2], jobs[1::2], strict=True):
        for section in ("seed", "data", "prompts", "evaluation", "grading", "model", "lora"):
            assert getattr(one.config, section) == getattr(other.config, section), section
        assert one.config.sampling == other.config.sampling


@pytest.mark.parametrize("preset", [None, "opsd-qwen3-1.7b", "opsd-v1-qwen3-4b", "mac-16gb"])
def test_comparison_gives_all_methods_the_same_evaluation(preset: str | None) -> None:
    """Otherwise a comparison of published recipes would leave most runs out in the end."""
    configs = {name: resolve(preset, [], {"method": name}) for name in METHODS}
    alike = evaluated_alike(configs)
    first, *others = (basis_of(config, {}, "problems") for config in alike.values())
    assert all(other == first for other in others)
    for name, config in alike.items():
        assert config.model_copy(update={"evaluation": None}) == configs[name].model_copy(
            update={"evaluation": None}
        )
    longest = max(config.sampling.max_new_tokens for config in configs.values())
    assert first["evaluation sampling"]["max_new_tokens"] == longest
    thinks = first["student prompt"]["chat_arguments"]["enable_thinking"]
    assert thinks == any(config.thinks for config in configs.values())
    if preset is None:
        assert alike == configs


def test_tuning_uses_neither_the_test_split_nor_a_compared_seed() -> None:
    jobs = tuning_jobs(CONFIGS)
    for job in jobs:
        assert not job.config.train.curve
        assert job.config.seed == CONFIGS[job.method].seed + TUNE_SEED_OFFSET
    rates = {job.config.optimizer.learning_rate for job in jobs if job.method == "opsd"}
    assert len(rates) == 3 and CONFIGS["opsd"].optimizer.learning_rate in rates


def test_tuning_chooses_the_learning_rate_on_validation_and_counts_its_cost(tmp_path: Path) -> None:
    jobs = [job for job in tuning_jobs(CONFIGS) if job.method == "opsd"]
    # The test split prefers the last; on validation the first two tie.
    for job, validation, test in zip(jobs, ([0.5, 0.9], [0.9, 0.6], [0.5, 0.8]), (1, 2, 99)):  # noqa: B905
        folder = tmp_path / job.name
        folder.mkdir(parents=True)
        rows = [{"split": "validation", "accuracy": {"value": v}} for v in validation]
        rows.append({"split": "test", "accuracy": {"value": test}})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / run_directory.EVALUATIONS).write_text(text)
        (folder / run_directory.RESULT).write_text(
            json.dumps({"tokens": {"generated": 10}, "training_cpu_seconds": 2.0})
        )
    found = tuned(tmp_path, jobs)["opsd"]
    assert found.validation == (0.9, 0.9, 0.8)
    assert found.chosen == min(found.rates[:2])
    assert (found.generated, found.cpu_seconds) == (30, 6.0)


def test_comparison_plan_round_trip(tmp_path: Path) -> None:
    write_plan(tmp_path / "c", plan_of(CONFIGS, [0, 1], True, 0.8))
    plan = read_plan(tmp_path / "c")
    assert configs_of(plan) == CONFIGS
    assert (plan["seeds"], plan["tune"], plan["target"]) == ([0, 1], True, 0.8)


def test_comparison_progress_is_read_from_a_running_run(tmp_path: Path) -> None:
    (job,) = comparison_jobs({"opsd": CONFIGS["opsd"]}, [0])
    assert progress_of(tmp_path, job, False).state == "waiting"
    folder = tmp_path / job.name
    folder.mkdir()
    row = {"step": 3, "ledger": {"generated": 77}, "seconds": 1.5}
    (folder / run_directory.METRICS).write_text(json.dumps(row) + "\n" + '{"step": 4, "ledg')
    progress = progress_of(tmp_path, job, True)
    assert (progress.state, progress.step, progress.generated) == ("running", 3, 77)
    assert last_row(folder / run_directory.METRICS) == row


def opsd(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opsd_cli", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **tied(os.environ))


def test_comparison_trains_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    small = [
        "train.steps=2", "train.evaluate_every=1", "train.questions_per_step=2",
        "data.validation_problems=4", "data.test_problems=6", "evaluation.samples=1",
        "sampling.max_new_tokens=8", "preflight.enabled=false", "rollouts.per_question=2",
    ]  # fmt: skip
    flags = [word for assignment in small for word in ("--set", assignment)]
    begun = opsd(
        tmp_path, "compare", "--methods", "grpo,sft", "--seeds", "1", "--out", "c", "--json",
        "--jobs", "2", *flags,
    )  # fmt: skip
    # With eight tokens nothing is answered, so no accuracy above the base is reached.
    assert begun.returncode == 0, begun.stderr
    summary = json.loads(begun.stdout)
    assert set(summary["methods"]) == {"grpo", "sft"} and summary["seeds"] == [0]
    assert summary["methods"]["sft"]["tokens"]["generated"] == 0
    assert summary["methods"]["grpo"]["tokens"]["generated"] > 0
    kept = (tmp_path / "c" / "grpo-s0" / run_directory.RESULT).read_bytes()
    assert opsd(tmp_path, "compare", "--out", "c").returncode == 2
    # As after a kill in the second run.
    damaged = tmp_path / "c" / "sft-s0" / run_directory.RESULT
    damaged.write_text(damaged.read_text()[:-40])  # rebuilt from its logs
    shutil.rmtree(tmp_path / "c" / "sft-s0" / "checkpoints" / "step-000002")
    resumed = opsd(tmp_path, "compare", "--resume", "--out", "c", "--json")
    assert resumed.returncode == 0, resumed.stderr
    again = json.loads(resumed.stdout)
    assert (
        again["methods"]["sft"]["curve"]["accuracy"]
        == (summary["methods"]["sft"]["curve"]["accuracy"])
    )
    assert (tmp_path / "c" / "grpo-s0" / run_directory.RESULT).read_bytes() == kept
