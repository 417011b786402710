"""A comparison's runs phase by phase: the rounds of `--halving`, and the runs that are compared.

Which runs there are follows from plan.json and from the run directories alone, so a comparison that
is resumed, or only looked at, finds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_cli.comparison.choice_words import ended_text
from opsd_cli.comparison.curves import Curve
from opsd_cli.comparison.halving import (
    Halving,
    left_out_of,
    phase_jobs,
    round_jobs,
    standing,
    summary_of,
)
from opsd_cli.comparison.jobs import (
    PLAN,
    Job,
    comparison_jobs,
    configs_of,
    read_plan,
    tuning_jobs,
    write_plan,
)
from opsd_cli.comparison.planned_tokens import spent_of
from opsd_cli.comparison.supervisor import PreflightOfRunFailed
from opsd_cli.comparison.variants import Variation, folders_of
from opsd_cli.config.schema import Config
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.tracking.listener import Messages
from opsd_cli.training import run_directory
from opsd_cli.training.totals import Totals, totals_of

RunJobs = Callable[[Path, Sequence[Job]], None]
"""Runs the jobs of a directory that have not finished, and returns when all have."""


def jobs_of(directory: Path) -> list[Job]:
    """The runs of a comparison as far as its rounds are decided; those of `--tune` first.

    Raises:
        RunError: there is no comparison, or its plan is damaged.
    """
    plan = read_plan(directory)
    configs, folders = configs_of(plan), folders_of(plan)
    halving = Halving.of_plan(plan)
    if halving is not None:
        return phase_jobs(directory, halving, configs, plan["seeds"], folders, left_out_of(plan))
    tuning: list[Job] = tuning_jobs(configs, folders) if plan["tune"] else []
    return tuning + comparison_jobs(configs, plan["seeds"], folders)


def train_arms(
    directory: Path,
    plan: Mapping[str, Any],
    configs: Mapping[str, Config],
    run_jobs: RunJobs,
    messages: Messages,
) -> tuple[list[Job], dict[str, str]]:
    """Train the rounds of the plan, if it has any, and then the runs that are compared.

    Args:
        configs: label -> config, with the learning rates that `--tune` chose.

    Returns:
        The runs that are compared, all finished; and each arm whose preflight failed, with the
        reason.
    """
    seeds, folders, halving = plan["seeds"], folders_of(plan), Halving.of_plan(plan)
    changed = set(variation.changes) if (variation := Variation.of_plan(plan)) else set[str]()
    refused = _Refused(changed, messages, {})
    if halving is None:
        jobs = refused.train(directory, comparison_jobs(configs, seeds, folders), run_jobs)
        return jobs, refused.reasons
    stored: dict[str, Any] = dict(plan.get("refused", {}))
    for label, how in stored.items():
        refused.leave_out(label, how["reason"])
    now = standing(directory, halving, configs, seeds, folders, left_out_of({"refused": stored}))
    while True:
        number = halving.rounds + 1 if now.round is None else now.round
        if now.round is None:
            messages.note(f"on to all steps and seeds: {', '.join(now.alive)}")
            left = {label: configs[label] for label in now.alive}
            jobs = comparison_jobs(left, seeds, folders, test_at_end=True)
        else:
            jobs = round_jobs(halving, number, now.alive, configs, seeds, folders)
            messages.note(f"round {number} of {halving.rounds}: {len(jobs)} arms, seed {seeds[0]}")
        before = set(refused.reasons)
        jobs = refused.train(directory, jobs, run_jobs)
        new = {k: why for k, why in refused.reasons.items() if k not in before}
        if new:  # a resumed comparison has to decide the same
            stored |= {label: {"reason": why, "round": number} for label, why in new.items()}
            write_plan(directory, {**plan, "refused": stored})
        if now.round is None:
            return jobs, refused.reasons
        out = left_out_of({"refused": stored})
        now = standing(directory, halving, configs, seeds, folders, out)
        for label, how in now.ended.items():
            if how.round == number:
                messages.note(f"{label}: {ended_text(vars(how))}")
        if number in now.none_ended:
            messages.note(f"round {number} ended no arm: {now.none_ended[number]}")


class _Refused:
    """The varied arms whose preflight failed: they are left out, and the others go on.

    A reference that does not help is an outcome of a comparison of references. The base arm, a
    method, and the last arm beside the base are not left out: the error is raised.

    Args:
        changed: the varied arms.
        reasons: of the arms that are left out.
    """

    def __init__(self, changed: set[str], messages: Messages, reasons: dict[str, str]) -> None:
        self._changed, self._messages = changed, messages
        self.reasons = reasons

    def leave_out(self, arm: str, reason: str) -> None:
        """Leave an arm out, and say so."""
        self._messages.warn(f"{arm} is left out: {reason}")
        self.reasons[arm] = reason

    def train(self, directory: Path, jobs: list[Job], run_jobs: RunJobs) -> list[Job]:
        """Train runs; returns those of the arms that are not left out, all done."""
        while True:
            try:
                run_jobs(directory, jobs)
            except PreflightOfRunFailed as error:
                arm = next(job.method for job in jobs if job.name == error.run)
                left = [job for job in jobs if job.method != arm]
                if arm not in self._changed or not any(job.method in self._changed for job in left):
                    raise
                self.leave_out(arm, error.reason)
                jobs = left
            else:
                return jobs


def facts_of(directory: Path, groups: Mapping[str, Sequence[Curve]]) -> dict[str, Any]:
    """What a summary has from the plan: planned tokens, common rows and ended arms.

    Empty where runs were compared that exist without a plan.
    """
    if not (directory / PLAN).is_file():
        return {}
    plan = read_plan(directory)
    found: dict[str, Any] = {}
    if plan.get("planned"):
        found["planned"] = spent_of(groups, plan["planned"])
    if plan.get("common_rows"):
        found["common_rows"] = plan["common_rows"]
    halving = Halving.of_plan(plan)
    if halving is not None:
        configs, folders = configs_of(plan), folders_of(plan)
        now = standing(directory, halving, configs, plan["seeds"], folders, left_out_of(plan))
        found["halving"] = summary_of(now, halving, plan["seeds"]) | {
            "planned": plan["halving_cost"],
            "spent": _spent(directory, plan, configs, halving),
        }
    return found


def _spent(
    directory: Path, plan: Mapping[str, Any], configs: Mapping[str, Config], halving: Halving
) -> dict[str, int]:
    """Tokens of all runs, those of ended arms among them."""
    jobs = phase_jobs(
        directory, halving, configs, plan["seeds"], folders_of(plan), left_out_of(plan)
    )
    totals = [_totals(directory / job.name) for job in jobs]
    return {kind: sum(each.tokens[kind] for each in totals) for kind in ("generated", "evaluation")}


def _totals(run: Path) -> Totals:
    return totals_of(
        run_directory.result_of(run),
        list(read_rows(run / run_directory.METRICS)),
        read_rows(run / run_directory.EVALUATIONS),
        read_object(run / run_directory.PREFLIGHT),
    )
