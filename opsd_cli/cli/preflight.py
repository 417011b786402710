"""`opsd train --preflight-only`: what it refuses, and the table that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.console import Output
from opsd_cli.cli.listeners import watched
from opsd_cli.cli.request import Request
from opsd_cli.cli.stopping import stop_on_signal
from opsd_cli.devices.number import count as count_devices
from opsd_cli.errors import PreflightFailed, UsageError
from opsd_cli.formatting import percent, points
from opsd_cli.loading import loaded_policy
from opsd_cli.statistics import Estimate
from opsd_cli.training import session
from opsd_cli.training.preflight_check import (
    PreflightResult,
    check,
    new_directory,
    require_teacher,
)
from opsd_cli.training.preflight_divergence import is_ungraded, lines_of
from opsd_cli.training.preflight_failure import LOOK, REGARDLESS
from opsd_cli.training.schedule import require_enough

if TYPE_CHECKING:
    from rich.table import Table

    from backends.interface import Policy
    from opsd_cli.tracking.listener import Listener


def run(request: Request, directory: Path | None, resume: bool) -> None:
    """Measure student and teacher before any training, and show what the numbers mean.

    Raises:
        UsageError: flags that contradict `--preflight-only`, or a method without a teacher.
        PreflightFailed: a run would not go on to train.
    """
    out = request.out
    for given, flag, why in (
        (resume, "--resume", "goes on with a run, whose preflight is done"),
        (request.dry_run, "--dry-run", "runs nothing"),
        (bool(request.flags.get("log")), "--log", "copies the metrics of a run"),
    ):
        if given:
            raise UsageError(
                f"--preflight-only measures before any training, and {flag} {why}",
                f"leave out {flag}, or --preflight-only",
            )
    config = request.config()
    require_teacher(config)
    count_devices(request.devices, config)
    with new_directory(directory):
        config, splits, _ = session.prepared(config, out)
        require_enough(config.train.questions_per_step, len(splits.train.problems))
        for warning in splits.warnings:
            out.warn(warning)

        def work(policy: Policy, listener: Listener) -> PreflightResult:
            return check(policy, splits, config, directory, listener, stopped.is_set)

        with (
            loaded_policy(config, out, True, devices=request.devices) as policy,
            stop_on_signal(out) as stopped,
        ):
            found = watched(out, partial(work, policy))
    show(found, out)
    out.object(found.as_dict())
    if not found.verdict.goes_on:
        raise PreflightFailed(
            f"nothing to distil: {found.verdict.meaning}",
            f"{found.verdict.advice}; then measure again"
            + ("" if is_ungraded(found.record) else f". To look: {LOOK}. {REGARDLESS}"),
        )


def show(found: PreflightResult, out: Output) -> None:
    """Show the accuracies with what became of the completions, one of each role, the meaning."""
    record, verdict = found.record, found.verdict
    out.show(_ungraded_table(record) if is_ungraded(record) else _table(found))
    if found.example:
        out.show(f"\n{found.example}\n")
    if verdict.goes_on:
        out.show(f"{verdict.meaning}.")
        if verdict.advice:
            out.show(f"what may help: {verdict.advice}")
    if found.directory is not None:
        out.show(f"every completion is in {found.directory}")
    else:
        out.note("--out DIR keeps the numbers and every completion")
    if verdict.goes_on:
        out.note("next: the same command without --preflight-only trains (with another --out)")


def _ungraded_table(record: Mapping[str, Any]) -> Table:
    """What was measured where nothing is graded."""
    from rich.table import Table

    table = Table(
        title=f"preflight on {record['problems']} training problems; nothing is graded",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        show_header=False,
    )
    for row in lines_of(record).items():
        table.add_row(*row)
    table.add_row("completions of the student cut off", f"{record['truncated']['student']:.0%}")
    return table


def _table(found: PreflightResult) -> Table:
    """The accuracies of both roles, and what became of their completions."""
    from rich.table import Table

    record = found.record
    table = Table(
        title=f"preflight on {record['problems']} training problems; the teacher has the reference",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for heading in ("", "right (95% interval)", "wrong", "cut off", "no answer"):
        table.add_column(heading, no_wrap=True)
    ungraded = any(found.outcome(role).ungraded for role in ("student", "teacher"))
    if ungraded:
        table.add_column("not graded")
    for role in ("student", "teacher"):
        outcome = found.outcome(role)
        shares = [outcome.wrong, outcome.unfinished, outcome.silent]
        shares += [outcome.ungraded] if ungraded else []
        accuracy = percent(Estimate(**record[role]))
        table.add_row(role, accuracy, *(f"{each:.0%}" for each in shares))
    table.add_row("difference", points(Estimate(**record["gain"])))
    return table
