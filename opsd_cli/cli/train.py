"""`opsd train`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.common import Request, choose_backend, loaded_policy, with_recommended
from opsd_cli.cli.console import Output
from opsd_cli.cli.live import watched
from opsd_cli.cli.plan import show_plan, splits_at_hand
from opsd_cli.errors import UsageError
from opsd_cli.formatting import count, duration, percent
from opsd_cli.problems.sources import Splits, load_splits
from opsd_cli.provenance import provenance
from opsd_cli.tracking import trackers
from opsd_cli.tracking.trackers import tracking
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run

if TYPE_CHECKING:
    from backends.interface import Policy
    from opsd_cli.tracking.listener import Listener
    from opsd_cli.training.result import TrainResult


def run(
    request: Request, directory: Path | None, resume: bool, resume_from: int | None = None
) -> None:
    """Train, and say what came of it."""
    out = request.out
    if resume or resume_from is not None:
        if directory is None:
            flag = "--resume" if resume_from is None else "--resume-from"
            raise UsageError(f"{flag} needs the run's directory", "give --out DIR")
        if request.without("backend").changes_anything:
            raise UsageError(
                "--resume goes on with the run's own config, which flags cannot change",
                "leave out the flags other than --backend, or start a new run in another --out",
            )
        with Run.resume(directory, resume_from) as opened:
            _go_on(opened, request, out)
        return
    from backends.shared.model_files import commit_of

    config = request.config()
    if config.adapter is not None:
        config = config.model_copy(update={"adapter": str(Path(config.adapter).resolve())})
    if directory is not None:
        run_directory.refuse_used(directory)
    if request.dry_run:
        show_plan(config, splits_at_hand(config, out), out)
        return
    trackers.require(config.log)
    splits = load_splits(config)
    config, choice = choose_backend(config, out)
    config, _ = with_recommended(config, out)
    where = provenance(choice.name, choice.reason)
    where |= {"data": splits.provenance(), "model_commit": commit_of(config)}
    with Run.create(directory, config, where) as opened:
        _work(opened, splits, out)


def _go_on(opened: Run, request: Request, out: Output) -> None:
    """Go on with a run, or show the result of one that has finished."""
    from opsd_cli.training.result import finished_result

    finished = finished_result(opened)
    if finished is not None:
        for note in opened.notes:
            out.warn(note)
        out.note(f"this run has finished: {opened.directory}")
        _report(opened, finished, out)
        return
    trackers.require(opened.config.log)
    _choose_again(opened, request, out)
    splits = load_splits(opened.config)
    if opened.environment() is None:
        out.warn(
            f"{run_directory.ENVIRONMENT} was missing or damaged; it now describes this machine"
        )
        where = provenance(opened.config.backend, "as the run began")
        opened.add_environment(where | {"data": splits.provenance()})
    _work(opened, splits, out)


def _choose_again(opened: Run, request: Request, out: Output) -> None:
    """The run's own backend, or the one that was asked for: a checkpoint means the same on each.

    A move is written into the run's environment.json; its config.yaml stays as it began.
    """
    began = opened.config.backend
    wanted = request.flags.get("backend")
    if wanted in (None, began):
        out.note(f"backend {began}, as the run began")
        return
    config = opened.config.model_copy(update={"backend": wanted})
    opened.config, choice = choose_backend(config, out)
    out.note(f"the run began on {began}; from here on the same steps to rounding, not bit for bit")
    step = opened.state()["step"] if opened.latest() else 0
    opened.add_environment({"from_step": step} | provenance(choice.name, choice.reason))


def _work(opened: Run, splits: Splits, out: Output) -> None:
    from opsd_cli.training.trainer import train

    out.note(f"run {opened.directory}")
    config = opened.config

    def work(policy: Policy, listener: Listener) -> TrainResult:
        step = opened.state()["step"] if opened.latest() else 0
        described = config.model_dump(mode="json")
        with tracking(config.log, listener, opened.directory, described, step) as told:
            return train(policy, splits, opened, told, stopped.is_set)

    with (
        loaded_policy(config, out, True, opened.directory / "vllm") as policy,
        stop_on_signal(out) as stopped,
    ):
        result = watched(out, partial(work, policy))
    _report(opened, result, out)


def _report(opened: Run, result: TrainResult, out: Output) -> None:
    from opsd_cli.reports import write_run_report

    report = write_run_report(opened.directory)
    show_result(result, report, out)
    out.object(result.as_dict())


@contextmanager
def stop_on_signal(out: Output) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts at once."""
    stopped = threading.Event()

    def ask(number: int, _: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        out.warn("stopping at the next rollout, then saving; press Ctrl-C again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_result(result: TrainResult, report: Path, out: Output) -> None:
    """The closing table."""
    from rich.table import Table

    base, best, final = (result.accuracy[name] for name in ("base", "best", "final"))
    table = Table(
        title="accuracy on the test split", title_justify="left", box=None, padding=(0, 2)
    )
    for heading in ("", "accuracy (95% interval)", "gain"):
        table.add_column(heading)
    table.add_row("base", percent(base), "")
    for name, value in ((f"best (step {result.best_step})", best), ("final", final)):
        table.add_row(name, percent(value), f"{100 * (value.value - base.value):+.1f} points")
    out.show(table)
    tokens = result.tokens
    out.show(
        f"{result.steps} steps ({result.stopped_because}) in {duration(result.seconds)}; tokens: "
        f"{count(tokens.generated)} generated, {count(tokens.teacher_scored)} scored by the "
        f"teacher, {count(tokens.trained)} trained"
    )
    out.show(f"run: {result.run_dir}\nreport: {report}")
    if not out.quiet:
        out.note(
            f"next: opsd sample --adapter {result.run_dir} --divergence\n"
            f"      opsd eval --adapter {result.run_dir} --samples 4"
        )
