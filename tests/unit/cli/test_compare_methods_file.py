"""`opsd compare` with a config file whose `methods` section gives one arm another teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli import methods
from opsd_cli.comparison.jobs import comparison_jobs, configs_of, plan_of, read_plan, write_plan
from opsd_cli.config.resolve import resolve
from tests.support.cli import Opsd

FILE = """
model: embedded
train: {steps: 2}
methods:
  opsd:
    teacher: {model: embedded, reference: answer}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def test_only_the_arm_that_the_file_names_has_the_other_teacher(file: Path, tmp_path: Path) -> None:
    configs = {
        name: resolve(str(file), [], {"method": name}) for name in ("opsd", "hybrid", "grpo")
    }
    write_plan(tmp_path / "c", plan_of(configs, [0, 1], False, None))
    read = configs_of(read_plan(tmp_path / "c"))
    assert read == configs
    jobs = comparison_jobs(read, [0, 1])
    taught = {job.name: methods.teacher_model(job.config) is not None for job in jobs}
    assert taught == {job.name: job.method == "opsd" for job in jobs} and len(taught) == 6
    assert {job.config.teacher.reference for job in jobs if job.method != "opsd"} == {"solution"}


def test_plan_of_the_comparison_counts_the_other_teacher_of_its_arm_alone(
    opsd: Opsd, file: Path
) -> None:
    code, out, err = opsd(
        f"compare --config {file.name} --methods opsd,hybrid --seeds 1 --dry-run --json"
    )
    assert code == 0, err
    plan = json.loads(out)["plan"]
    lengths = {name: plan[name]["for_prompts_of"] for name in ("opsd", "hybrid")}
    # The other model sees the answer, the own one the solution.
    assert lengths["opsd"]["student"] < lengths["opsd"]["teacher"] < lengths["hybrid"]["teacher"]
    assert all(plan[name]["teacher_scored_tokens_at_most"] > 0 for name in lengths)


def test_mistake_in_the_teacher_of_one_arm_names_the_file_and_line(opsd: Opsd, file: Path) -> None:
    file.write_text(FILE.replace("model: embedded, ref", "modell: embedded, ref"))
    code, _, err = opsd(f"compare --config {file.name} --methods opsd,grpo --dry-run")
    assert code == 2 and "mine.yaml, line 6" in err and "teacher.modell" in err
    file.write_text(FILE.replace("reference: answer", "weights: ema"))
    code, _, err = opsd(f"compare --config {file.name} --methods opsd,grpo --dry-run")
    assert code == 2 and "teacher.weights=ema" in err
    assert opsd(f"train --method grpo --config {file.name} --dry-run")[0] == 0
