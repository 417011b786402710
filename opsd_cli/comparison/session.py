"""A comparison from its configs to its report: the work of `opsd compare` and `opsd_cli.compare`.

    begin -> held, train_and_compare    methods that are trained for it
    compare_finished                    runs that exist already

Every run is made by `opsd train` in a process of its own (`opsd_cli.comparison.supervisor`); this
module decides which, in which order, and what follows from them. Nothing here prints.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from opsd_cli.comparison.common_rows import common_rows, sentence, with_common_rows
from opsd_cli.comparison.curves import Curve, comparable, labelled, read_curve
from opsd_cli.comparison.halving import Halving
from opsd_cli.comparison.jobs import (
    PLAN,
    TUNE_SEED_OFFSET,
    Progress,
    Tuned,
    configs_of,
    evaluated_alike,
    plan_of,
    prepared,
    progress_of,
    read_plan,
    tuned,
    tuning_jobs,
    with_rate,
    write_plan,
)
from opsd_cli.comparison.phases import RunJobs, facts_of, jobs_of, train_arms
from opsd_cli.comparison.planned_tokens import halving_cost, stored_plan
from opsd_cli.comparison.summary import COMPARISON, summarise
from opsd_cli.comparison.supervisor import stopped
from opsd_cli.comparison.variants import Variation, folders_of
from opsd_cli.comparison.verdict import verdict
from opsd_cli.config.bounds import LARGEST_SEED
from opsd_cli.config.schema import Config
from opsd_cli.errors import GateNotMet, RunError, UsageError
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.directory_lock import lock_directory
from opsd_cli.files.fresh_directory import fresh_directory
from opsd_cli.formatting import json_safe, times
from opsd_cli.grading import check_grader, grades
from opsd_cli.loading import choose_backend
from opsd_cli.planning.token_plan import TokenPlan, token_plan
from opsd_cli.problems.sources import load_splits
from opsd_cli.tracking import trackers
from opsd_cli.tracking.listener import Messages
from opsd_cli.training import run_directory

PICTURE, REPORT = "comparison.png", "report.html"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        summary: the object of `opsd compare --json`; ratios may be infinite or NaN.
        groups: the curves that were compared, by label.
        directory: it holds the runs that were trained, `comparison.json`, picture and report.
    """

    summary: dict[str, Any]
    groups: dict[str, list[Curve]]
    directory: Path

    @property
    def picture(self) -> Path:
        """`comparison.png`."""
        return self.directory / PICTURE

    @property
    def report(self) -> Path:
        """`report.html`."""
        return self.directory / REPORT

    @property
    def verdict(self) -> str:
        """The comparison in a sentence or two."""
        return verdict(self.summary)

    def require_ratio(self, least: float) -> None:
        """Raise `GateNotMet` if the token-efficiency ratio is below this."""
        ratio = self.summary["token_efficiency"]["ratio"]
        if math.isnan(ratio):
            raise GateNotMet(
                f"there is no token-efficiency ratio, and {least:g}× is required", self.verdict
            )
        if not ratio >= least:
            raise GateNotMet(
                f"the token-efficiency ratio is {times(ratio)}, below the {least:g}× required",
                f"the comparison itself is complete: {self.report}",
            )


def make_default_directory() -> Path:
    """Make a new directory such as runs/compare-20261123-094500.

    Raises:
        RunError: it cannot be made.
    """
    try:
        return fresh_directory(Path("runs"), f"compare-{datetime.now():%Y%m%d-%H%M%S}")
    except OSError as error:
        raise RunError(
            f"cannot write to {error.filename}: {error.strerror}", "give another --out DIR"
        ) from error


def refuse_used(directory: Path) -> None:
    """Raise `RunError`, with the ways out, where a directory is not free."""
    if (directory / PLAN).is_file():
        raise RunError(
            f"{directory} already holds a comparison",
            f"go on with it (--resume --out {directory}), write elsewhere (another --out), "
            "or move it away first",
        )
    run_directory.refuse_used(directory)


def require_labels(labels: Sequence[str], arms: int | None = None) -> None:
    """Raise `UsageError` unless there are two labels or more that can each name a directory.

    Args:
        arms: in place of the number of labels.
    """
    for label in labels:
        if not re.fullmatch(r"[\w][\w .+=-]*", label):
            raise UsageError(
                f"the label {label!r} cannot name a directory", "use letters, digits and -+=._"
            )
    if (len(labels) if arms is None else arms) < 2:
        raise UsageError("one config cannot be compared with itself", "give two or more")


def measured_alike(configs: Mapping[str, Config], seeds: int) -> dict[str, Config]:
    """The configs with one evaluation for all (`evaluated_alike`), and the same training rows.

    Raises:
        UsageError: there is no room for so many seeds above a config's own, or nothing is graded.
    """
    for name, config in configs.items():
        if not grades(config.grading):
            raise UsageError(
                f"a comparison is of accuracies, and {name} has none: its grading.grader is none",
                "choose a grading.grader that grades; or train each config on its own and compare "
                "the divergence in their results, if divergence.* and teacher.* are the same in "
                "all (docs/graders.md)",
            )
    alike = with_common_rows(evaluated_alike(dict(configs)))
    highest = LARGEST_SEED - seeds - TUNE_SEED_OFFSET
    if any(config.seed > highest for config in alike.values()):
        raise UsageError("--seed leaves no room for --seeds", f"give {highest:,} or less")
    return alike


def begin(
    configs: Mapping[str, Config],
    directory: Path | None,
    seeds: int,
    tune: bool,
    target: float | None,
    messages: Messages,
    variation: Variation | None = None,
    halving: Halving | None = None,
    plans: Mapping[str, TokenPlan] | None = None,
) -> Path:
    """Check that every config can be trained, and write the plan of a new comparison.

    Args:
        configs: label -> config, as `measured_alike` gives them.
        directory: None makes one (`make_default_directory`).
        seeds: runs of each, counted from the first config's seed.
        tune: first choose each learning rate on validation.
        target: the test accuracy to count tokens to; by default from the curves.
        variation: how the arms of `--vary` differ.
        halving: the rounds after which arms are ended.
        plans: the tokens of one run of each, if they are known already.

    Returns:
        The comparison's directory.

    Raises:
        UsageError: a tracker's package is not installed.
        ConfigError: the grader cannot be used.
        DataError: the problems cannot be read.
        BackendMissing: the backend cannot run on this machine.
    """
    for config in configs.values():
        trackers.require(config.log)
        check_grader(config.grading)
    splits = {label: load_splits(config) for label, config in configs.items()}
    rows = common_rows(configs, splits)
    if rows is not None:
        messages.note(sentence(rows.as_dict()))
    if plans is None:
        plans = {label: token_plan(prepared(c), splits[label]) for label, c in configs.items()}
    first = next(iter(configs.values()))
    chosen, _ = choose_backend(first, messages)
    configs = {
        name: config.model_copy(update={"backend": chosen.backend})
        for name, config in configs.items()
    }
    counted = range(first.seed, first.seed + seeds)
    directory = directory or make_default_directory()
    more = {
        "common_rows": None if rows is None else rows.as_dict(),
        "planned": stored_plan(plans),
        "halving": None if halving is None else halving.as_dict(),
        "halving_cost": None
        if halving is None
        else halving_cost(halving, configs, plans, seeds).as_dict(),
    }
    write_plan(directory, plan_of(configs, list(counted), tune, target, variation, more))
    return directory


def progress(directory: Path) -> list[Progress]:
    """Where every run of a comparison's plan is, those of `--tune` first; nothing is changed.

    Raises:
        RunError: there is no comparison.
    """
    return [progress_of(directory, job, running=False) for job in jobs_of(directory)]


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Lock a comparison's directory until the end of the block.

    Raises:
        RunError: there is no comparison, or another process is at work on it.
        Interrupted: in place of a `KeyboardInterrupt` in the block, with the command that resumes.
    """
    read_plan(directory)  # or say that there is none, before the lock makes a file
    with contextlib.closing(lock_directory(directory)):
        try:
            yield
        except KeyboardInterrupt:
            raise stopped(directory) from None


def train_and_compare(
    directory: Path, run_jobs: RunJobs, messages: Messages, target: float | None = None
) -> Comparison:
    """Train what the plan still lacks, then compare; the directory is `held`.

    Args:
        target: in place of the plan's.

    Raises:
        TrainingError: a run failed.
        Interrupted: the user stopped it; every run keeps its newest checkpoint.
    """
    plan = read_plan(directory)
    configs = configs_of(plan)
    found: dict[str, Tuned] = {}
    if plan["tune"]:
        jobs = tuning_jobs(configs, folders_of(plan))
        run_jobs(directory, jobs)
        found = tuned(directory, jobs)
        configs = {name: with_rate(c, found[name].chosen) for name, c in configs.items()}
        for name, entry in found.items():
            messages.note(f"{name}: learning rate {entry.chosen:g}, chosen on validation")
    jobs, refused = train_arms(directory, plan, configs, run_jobs, messages)
    curves = [read_curve(directory / job.name, job.method) for job in jobs]
    wanted = plan["target"] if target is None else target
    variation = Variation.of_plan(plan)
    return _conclude(curves, directory, messages, wanted, found, variation, refused)


def compare_finished(
    runs: Sequence[Path], directory: Path | None, messages: Messages, target: float | None = None
) -> Comparison:
    """Compare runs that have finished; nothing is trained.

    Raises:
        UsageError: fewer than two runs.
        RunError: one is no run or has not finished, or the directory is used.
        DataError: one lacks what a comparison needs.
    """
    if len(runs) < 2:
        raise UsageError("one run cannot be compared with itself", "name two runs or more")
    curves = [read_curve(path) for path in runs]
    if directory is not None:
        refuse_used(directory)
        return _conclude(curves, directory, messages, target, {})
    directory = make_default_directory()
    try:
        return _conclude(curves, directory, messages, target, {})
    finally:
        with contextlib.suppress(OSError):  # it is empty if there is no result
            directory.rmdir()


def _conclude(
    curves: Sequence[Curve],
    directory: Path,
    messages: Messages,
    target: float | None,
    found: Mapping[str, Tuned],
    variation: Variation | None = None,
    refused: Mapping[str, str] | None = None,
) -> Comparison:
    """Calculate, and write `comparison.json`.

    Args:
        refused: arms that were not trained, with the reason, which the user was told.
    """
    kept, left_out = comparable(curves)
    for path, reason in left_out.items():
        messages.warn(f"{path} is left out: {reason}")
    left_out |= refused or {}
    groups = labelled(kept)
    with messages.working("calculating intervals"):
        summary = summarise(groups, directory, target, left_out, found, variation=variation)
        summary |= facts_of(directory, groups)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / COMPARISON, json.dumps(json_safe(summary), indent=1) + "\n")
    return Comparison(summary, groups, directory)
