"""`opsd train`: its flags, its way to stop, and the table that it shows."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from opsd_cli import typed_settings
from opsd_cli.cli import preflight
from opsd_cli.cli.console import Output
from opsd_cli.cli.listeners import watched
from opsd_cli.cli.plan import show_plan, show_rest
from opsd_cli.cli.request import Request
from opsd_cli.cli.stopping import stop_on_signal
from opsd_cli.devices.number import Devices, ranks
from opsd_cli.devices.number import count as count_devices
from opsd_cli.errors import Interrupted, UsageError
from opsd_cli.formatting import count, duration, nats, numbered, percent, share
from opsd_cli.loading import choose_backend, loaded_policy, with_absolute_adapter
from opsd_cli.planning.available_splits import available_splits
from opsd_cli.planning.readiness import (
    require_model_at_hand,
    require_problems_at_hand,
    require_ready,
)
from opsd_cli.problems.sources import load_splits
from opsd_cli.reports.run_report import write_run_report
from opsd_cli.tracking import trackers
from opsd_cli.training import run_directory, session
from opsd_cli.training.pausing import asked_pause
from opsd_cli.training.remaining import remaining
from opsd_cli.training.schedule import require_enough
from opsd_cli.training.session import TrainingSession
from opsd_cli.training.thinking import planned_thinking_warning

if TYPE_CHECKING:
    from backends.interface import Policy
    from opsd_cli.config.schema import Config
    from opsd_cli.planning.token_plan import TokenPlan
    from opsd_cli.tracking.listener import Listener
    from opsd_cli.training.result import TrainResult
    from opsd_cli.training.time_probe import TimeEstimate


#: What the last column of the table is.
FLEXIBLE = (
    "flexible: accuracy if the last number, or expression, counts as the answer without a box"
)


def run(
    request: Request,
    directory: Path | None,
    resume: bool,
    resume_from: int | None = None,
    probe: bool = False,
    show_config: bool = False,
    preflight_only: bool = False,
    sources: str | None = None,
) -> None:
    """Train, and show the result; with `preflight_only`, only measure whether it is worth it."""
    out = request.out
    if show_config and not request.dry_run:
        raise UsageError("--show-config shows the config of a plan", "give it with --dry-run")
    if preflight_only:
        preflight.run(request, directory, resume or resume_from is not None, sources)
        return
    if sources is not None:
        raise UsageError(
            "--sources names what the preflight compares", "give it with --preflight-only"
        )
    if probe and not request.dry_run:
        raise UsageError("--probe estimates the time of a plan", "give it with --dry-run")
    if resume or resume_from is not None:
        if directory is None:
            flag = "--resume" if resume_from is None else "--resume-from"
            raise UsageError(f"{flag} needs the run's directory", "give --out DIR")
        more, rest = request.without("backend").taking("train.steps")
        if rest.changes_anything:
            raise UsageError(
                "--resume goes on with the run's own config, which flags cannot change",
                "leave out the flags other than --backend, and --steps for a finished run; or "
                "start a new run in another --out",
            )
        backend = request.flags.get("backend")
        if request.dry_run:
            if probe:
                raise UsageError(
                    "--probe estimates the time of a new run", "leave out --probe, or --resume"
                )
            left = remaining(directory, resume_from, backend, more)
            show_rest(directory, left, out, None if show_config else ())
            return
        typed_settings.note(["--config", str(directory / run_directory.CONFIG)])
        with session.resume(directory, out, resume_from, backend, more) as opened:
            _train(opened, out, request.devices)
        return
    config = request.config()
    if request.dry_run:
        _plan(request, config, directory, probe, show_config)
        return
    count_devices(request.devices, config)
    with session.begin(config, directory, out) as opened:
        _train(opened, out, request.devices)


def _plan(
    request: Request, config: Config, directory: Path | None, probe: bool, show_config: bool
) -> None:
    """Check what the run would check, and show what it needs; with `probe`, its time too."""
    out, devices = request.out, request.devices
    settings = None if show_config else request.changed_settings(config)
    config = with_absolute_adapter(config)
    if directory is not None:
        run_directory.refuse_used(directory)
    trackers.require(config.log)
    splits = available_splits(config, out)
    if splits is not None:
        require_enough(config.train.questions_per_step, len(splits.train.problems))
    require_ready(config, out, learns=True)
    warning = planned_thinking_warning(config)
    if warning is not None:
        out.warn(warning)
    number = ranks(devices, config)
    if not probe:
        show_plan(config, splits, out, devices=number, settings=settings)
        require_problems_at_hand(config, splits)
        require_model_at_hand(config)
        return
    problems = splits or load_splits(config)
    config, _ = choose_backend(config, out)

    def measure(plan: TokenPlan) -> TimeEstimate:
        from opsd_cli.training.time_probe import estimate_time

        loading = loaded_policy(config, out, True, devices=devices)
        with loading as policy, out.working("measuring a short step"):
            found = estimate_time(policy, config, problems, plan)
        # With several processes this one's share says nothing of the others.
        return found if number == 1 else replace(found, cpu_share=None)

    show_plan(config, problems, out, measure, number, settings)


def _train(opened: TrainingSession, out: Output, devices: Devices) -> None:
    result = opened.finished
    if result is None:
        pause = asked_pause(opened.run.directory)

        def work(policy: Policy, listener: Listener) -> TrainResult:
            return session.work(opened, policy, listener, lambda: stopped.is_set() or pause())

        with (
            loaded_policy(opened.run.config, out, True, opened.engine_folder, devices) as policy,
            stop_on_signal(out) as stopped,
        ):
            try:
                result = watched(out, partial(work, policy))
            except Interrupted as error:
                if stopped.is_set() or not pause():
                    raise
                out.note(error.message)
                return
    show_result(result, write_run_report(opened.run.directory), out)
    out.object(result.as_dict())


def show_result(result: TrainResult, report: Path, out: Output) -> None:
    """Show the accuracies as a table, tokens by kind, where the run is, and what is remarkable."""
    if result.accuracy:
        _show_accuracy(result, out)
    else:
        _show_held_out(result, out)
    tokens = result.tokens
    out.show(
        f"{numbered(result.steps, 'step')} ({result.stopped_because}) in "
        f"{duration(result.seconds)}; tokens: "
        f"{count(tokens.generated)} generated, {count(tokens.teacher_scored)} scored by the "
        f"teacher, {count(tokens.trained)} trained, {count(tokens.evaluation)} in evaluations"
    )
    out.show(f"run: {result.run_dir}\nreport: {report}")
    for remark in result.remarks:
        out.warn(remark)
    if not out.quiet:
        last = " --checkpoint last" if result.best_step == 0 and result.steps > 0 else ""
        run = shlex.quote(str(result.run_dir))
        out.note(
            f"next: opsd sample --adapter {run}{last} --divergence\n"
            f"      opsd eval --adapter {run}{last} --samples 4"
        )


def _show_held_out(result: TrainResult, out: Output) -> None:
    """The table of a run in which nothing is graded."""
    from rich.table import Table

    measures = {
        "divergence\n(95% interval)": result.divergence,
        "log-probability of the\nsolutions (95% interval)": result.reference_log_prob,
    }
    measures = {name: found for name, found in measures.items() if found}
    if not measures:
        out.show("nothing is graded, and the test split has neither references nor solutions")
        return
    table = Table(
        title="on the test split, in nats a token",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for heading in ("", *measures):
        table.add_column(heading)
    for name, label in (
        ("base", "base"), ("best", f"best (step {result.best_step})"), ("final", "final"),
    ):  # fmt: skip
        table.add_row(label, *(nats(found[name]) for found in measures.values()))
    out.show(table)


def _show_accuracy(result: TrainResult, out: Output) -> None:
    """The accuracies as a table."""
    from rich.table import Table

    base, best, final = (result.accuracy[name] for name in ("base", "best", "final"))
    table = Table(
        title="accuracy on the test split", title_justify="left", box=None, padding=(0, 2)
    )
    flexible = {name: share(e.value) for name, e in result.flexible_accuracy.items()}
    for heading in ("", "accuracy (95% interval)", "gain", *(["flexible"] if flexible else [])):
        table.add_column(heading)
    table.add_row("base", percent(base), "", flexible.get("base"))
    for name, label, value in (
        ("best", f"best (step {result.best_step})", best),
        ("final", "final", final),
    ):
        gain = f"{100 * (value.value - base.value):+.1f} points"
        table.add_row(label, percent(value), gain, flexible.get(name))
    out.show(table)
    if flexible:
        out.show(FLEXIBLE)
