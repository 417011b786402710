"""What a comparison trains, every method and seed in a run of its own, and how far each run is.

A comparison's directory holds `plan.json` and one run directory a method and seed, each made by
`opsd train` itself: what is compared is what a person would have got. A run that has finished is
never run again, and one that was stopped goes on from its newest checkpoint, so a comparison can
be interrupted at any time. `--tune` adds short runs under `tune/` that choose each method's
learning rate on validation problems, and whose cost is kept beside the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opsd_cli.config.resolve import validate
from opsd_cli.config.schema import Config
from opsd_cli.errors import RunError
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory

PLAN = "plan.json"
#: Factors of a method's configured learning rate that `--tune` tries.
TUNE_FACTORS = (0.3, 1.0, 3.0)
#: Tuning runs use seeds that no comparison of fewer than so many seeds uses.
TUNE_SEED_OFFSET = 1000


@dataclass(frozen=True)
class Job:
    """One training run: its directory's name and its config."""

    name: str
    method: str
    config: Config


@dataclass(frozen=True)
class Progress:
    """How far a job is; accuracy is the newest on the test split, tokens those generated."""

    job: Job
    state: str
    step: int = 0
    accuracy: float | None = None
    generated: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Tuned:
    """What the search over learning rates found for one method, on validation alone."""

    method: str
    rates: tuple[float, ...]
    validation: tuple[float, ...]
    chosen: float
    generated: int
    cpu_seconds: float


def prepared(config: Config) -> Config:
    """A config as a comparison runs it: every evaluation on test too, never stopped early."""
    train = config.train.model_copy(update={"curve": True, "patience": None})
    return config.model_copy(update={"train": train})


def evaluated_alike(configs: dict[str, Config]) -> dict[str, Config]:
    """The configs with one evaluation, where they would be measured differently.

    Published recipes validate as they train, some without thinking and briefly. Accuracies compare
    only if they are measured alike, so every method gets what the most demanding one asks for: a
    think block, and the longest completions.
    """
    limits = {c.evaluation.max_new_tokens or c.sampling.max_new_tokens for c in configs.values()}
    wordings = [c.evaluation.template or c.prompts.student.template for c in configs.values()]
    thinking = {c.thinks for c in configs.values()}
    changes: dict[str, Any] = {}
    if len(thinking) > 1:
        changes["thinking"] = True
    if len(limits) > 1:
        changes["max_new_tokens"] = max(limits)
    if len(set(wordings)) > 1:
        changes["template"] = wordings[0]
    return {
        name: c.model_copy(update={"evaluation": c.evaluation.model_copy(update=changes)})
        for name, c in configs.items()
    }


def with_rate(config: Config, rate: float) -> Config:
    optimizer = config.optimizer.model_copy(update={"learning_rate": rate})
    return config.model_copy(update={"optimizer": optimizer})


def with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"seed": seed})


def comparison_jobs(configs: dict[str, Config], seeds: Sequence[int]) -> list[Job]:
    """A run for each seed of each method, the methods taking turns."""
    return [
        Job(f"{label}-s{seed}", label, with_seed(prepared(config), seed))
        for seed in seeds
        for label, config in configs.items()
    ]


def tuning_jobs(configs: dict[str, Config]) -> list[Job]:
    """A run for each method and rate, at one seed, that never looks at the test split's curve."""
    jobs = []
    for label, config in configs.items():
        base = prepared(config)
        base = base.model_copy(
            update={
                "train": base.train.model_copy(update={"curve": False}),
                "seed": config.seed + TUNE_SEED_OFFSET,
            }
        )
        for factor in TUNE_FACTORS:
            rate = float(f"{config.optimizer.learning_rate * factor:.3g}")
            jobs.append(Job(f"tune/{label}-lr{rate:g}", label, with_rate(base, rate)))
    return jobs


def tuned(directory: Path, jobs: Sequence[Job]) -> dict[str, Tuned]:
    """For each method the rate whose best validation accuracy is highest; the lower on a tie."""
    found: dict[str, Tuned] = {}
    for method in dict.fromkeys(job.method for job in jobs):
        mine = [job for job in jobs if job.method == method]
        best, generated, seconds = [], 0, 0.0
        for job in mine:
            rows = read_rows(directory / job.name / run_directory.EVALUATIONS)
            best.append(max(r["accuracy"]["value"] for r in rows if r["split"] == "validation"))
            result = run_directory.result_of(directory / job.name)
            if result is None:
                raise RunError(
                    f"the run in {directory / job.name} has lost its {run_directory.RESULT}",
                    f"make it anew: opsd train --resume --out {directory / job.name}",
                )
            generated += result["tokens"]["generated"]
            seconds += result["training_cpu_seconds"]
        rates = [job.config.optimizer.learning_rate for job in mine]
        chosen = min(zip(best, rates, strict=True), key=lambda pair: (-pair[0], pair[1]))[1]
        found[method] = Tuned(method, tuple(rates), tuple(best), chosen, generated, seconds)
    return found


def write_plan(directory: Path, plan: dict[str, Any]) -> None:
    """Record what a comparison is, for a later `--resume`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / PLAN, json.dumps(plan, indent=1) + "\n")


def read_plan(directory: Path) -> dict[str, Any]:
    """What `write_plan` wrote; raises `RunError` where there is no comparison."""
    path = directory / PLAN
    if not path.is_file():
        raise RunError(
            f"{directory} is not a comparison: it has no {PLAN}",
            "give --out the directory of the comparison to go on with",
        )
    plan = read_object(path)
    if plan is None or not plan.keys() >= {"seeds", "tune", "target", "configs"}:
        raise RunError(
            f"{path} is damaged", "bring it back from a copy, or compare the finished runs by name"
        )
    return plan


def plan_of(
    configs: dict[str, Config], seeds: Sequence[int], tune: bool, target: float | None
) -> dict[str, Any]:
    return {
        "seeds": list(seeds),
        "tune": tune,
        "target": target,
        "configs": {label: json.loads(c.model_dump_json()) for label, c in configs.items()},
    }


def configs_of(plan: dict[str, Any]) -> dict[str, Config]:
    return {label: validate(tree) for label, tree in plan["configs"].items()}


def progress_of(directory: Path, job: Job, running: bool) -> Progress:
    """How far a job is, from the files of its run."""
    run = directory / job.name
    finished = run_directory.result_of(run) is not None
    state = "done" if finished else "running" if running else "waiting"
    metrics = last_row(run / run_directory.METRICS)
    tests = [r for r in read_rows(run / run_directory.EVALUATIONS) if r["split"] == "test"]
    return Progress(
        job=job,
        state=state,
        step=metrics["step"] if metrics else 0,
        accuracy=tests[-1]["accuracy"]["value"] if tests else None,
        generated=metrics["ledger"]["generated"] if metrics else 0,
        seconds=metrics["seconds"] if metrics else 0.0,
    )


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole line of a log, read from its end."""
    if not path.exists():
        return None
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - 65536))
        lines = log.read().split(b"\n")
    whole = [line for line in lines[:-1] if line.startswith(b"{") and line.endswith(b"}")]
    return json.loads(whole[-1]) if whole else None


def tuned_dict(found: dict[str, Tuned]) -> dict[str, Any]:
    return {name: asdict(value) for name, value in found.items()}
