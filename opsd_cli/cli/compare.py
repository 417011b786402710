"""`opsd compare`: methods trained side by side, or finished runs set against each other."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.common import Request, choose_backend
from opsd_cli.cli.console import Output
from opsd_cli.config.bounds import LARGEST_SEED
from opsd_cli.config.explain import suggest
from opsd_cli.config.schema import Config
from opsd_cli.errors import GateNotMet, RunError, UsageError
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.directory_lock import lock_directory
from opsd_cli.formatting import count, duration, percent
from opsd_cli.methods import METHODS
from opsd_cli.printable import visible
from opsd_cli.processes.child_processes import OPSD, package_environment, tied
from opsd_cli.tracking import trackers
from opsd_cli.training.layout import refuse_used

if TYPE_CHECKING:
    from rich.table import Table

    from opsd_cli.comparison.curves import Curve
    from opsd_cli.comparison.running import Job, Progress, Tuned
    from opsd_cli.problems.sources import Splits

PLOT_WIDTH, PLOT_HEIGHT = 64, 15
SAMPLES = "samples.json"
#: Validation problems whose completions the page shows, for each method.
SAMPLED_PROBLEMS = 3


@dataclass(frozen=True)
class What:
    """The flags of `opsd compare` alone."""

    finished: tuple[Path, ...]
    methods: str
    seeds: int
    tune: bool
    target: float | None
    require_ratio: float | None
    jobs: int
    out: Path | None
    resume: bool


def run(request: Request, what: What) -> None:
    """Train what is missing, then compare."""
    if what.finished:
        if what.resume or request.changes_anything:
            raise UsageError(
                "finished runs are compared as they are, so --resume and config flags do nothing",
                "leave them out, or leave out the runs to train anew",
            )
        _compare_finished(what, request.out)
    elif what.resume:
        if what.out is None:
            raise UsageError("--resume needs the comparison's directory", "give --out DIR")
        if request.changes_anything:
            raise UsageError(
                "--resume goes on with the comparison's own plan, which flags cannot change",
                "leave out the other flags, or start a new comparison in another --out",
            )
        _train_and_compare(what.out, what, request.out)
    else:
        _begin(request, what)


def named_methods(text: str) -> tuple[str, ...]:
    """The methods of a comma-separated list; raises `UsageError` for a wrong one."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in METHODS:
            raise UsageError(f"there is no method {name!r}", suggest(name, list(METHODS), "--help"))
    if len(set(names)) < max(2, len(names)):
        hint = f"choose from {', '.join(METHODS)}"
        raise UsageError(f"--methods {text!r} does not name two different methods", hint)
    return names


def _of_method(request: Request, name: str) -> Config:
    return Request(
        request.config_name, request.assignments, {**request.flags, "method": name}
    ).config()


def _begin(request: Request, what: What) -> None:
    """A new comparison."""
    from opsd_cli.comparison.running import (
        TUNE_SEED_OFFSET,
        evaluated_alike,
        plan_of,
        write_plan,
    )
    from opsd_cli.problems.sources import load_splits

    out = request.out
    names = named_methods(what.methods)
    configs = evaluated_alike({name: _of_method(request, name) for name in names})
    highest = LARGEST_SEED - what.seeds - TUNE_SEED_OFFSET
    if any(config.seed > highest for config in configs.values()):
        raise UsageError("--seed leaves no room for --seeds", f"give {highest:,} or less")
    directory = what.out or Path("runs") / f"compare-{datetime.now():%Y%m%d-%H%M%S}"
    _refuse_used(directory)
    if request.dry_run:
        _show_plan(request, configs, what)
        return
    for config in configs.values():
        trackers.require(config.log)
        load_splits(config)
    first = next(iter(configs.values()))
    chosen, _ = choose_backend(first, out)
    configs = {
        name: config.model_copy(update={"backend": chosen.backend})
        for name, config in configs.items()
    }
    seeds = range(first.seed, first.seed + what.seeds)
    write_plan(directory, plan_of(configs, list(seeds), what.tune, what.target))
    _train_and_compare(directory, what, out)


def _refuse_used(directory: Path) -> None:
    """Raise `RunError`, with the ways out, where a directory is not free."""
    from opsd_cli.comparison.running import PLAN

    if (directory / PLAN).is_file():
        raise RunError(
            f"{directory} already holds a comparison",
            f"go on with it (--resume --out {directory}), write elsewhere (another --out), "
            "or move it away first",
        )
    refuse_used(directory)


def _show_plan(request: Request, named: dict[str, Config], what: What) -> None:
    """The tokens of every method side by side, also of those that were not asked for."""
    from opsd_cli.cli.plan import plan_table, prompts_of, splits_at_hand
    from opsd_cli.comparison.running import evaluated_alike, prepared, tuning_jobs
    from opsd_cli.planning.token_plan import token_plan

    out = request.out
    splits: dict[str, Splits | None] = {}
    absent: set[str] = set()  # what cannot be read is tried, and spoken of, once
    for name, config in named.items():
        data = config.data.model_dump_json()
        splits[name] = None if data in absent else splits_at_hand(config, out)
        if splits[name] is None:
            absent.add(data)
    first = next(iter(splits.values()))
    configs = dict(named)
    for name in METHODS:
        if name not in named:  # as it would be measured beside them
            configs[name] = evaluated_alike({**named, name: _of_method(request, name)})[name]
    plans = {
        name: token_plan(prepared(config), splits.get(name, first))
        for name, config in configs.items()
    }
    out.show("tokens at most, of one run of each method, all evaluated alike:")
    out.show(plan_table(plans))
    for name, plan in plans.items():
        out.show(f"{name}: {prompts_of(plan)}")
    for name, config in named.items():
        out.show(
            f"{name}: {what.seeds} seeds × {config.train.steps} steps, learning rate "
            f"{config.optimizer.learning_rate:g}"
        )
    others = [name for name in plans if name not in named]
    if others:
        out.show(f"not asked for (--methods): {', '.join(others)}")
    tuning = [token_plan(job.config, splits[job.method]) for job in tuning_jobs(named)]
    if what.tune:
        out.show(
            f"before that, {len(tuning)} runs to choose learning rates, at most "
            f"{sum(plan.most.generated for plan in tuning):,} generated tokens"
        )
    out.show("nothing was written")
    out.object(
        {
            "plan": {name: plan.as_dict() for name, plan in plans.items()},
            "methods": list(named),
            "seeds": what.seeds,
            "tuning": {
                "runs": len(tuning),
                "generated_tokens_at_most": sum(plan.most.generated for plan in tuning),
            }
            if what.tune
            else None,
        }
    )


def _train_and_compare(directory: Path, what: What, out: Output) -> None:
    from opsd_cli.comparison.running import read_plan
    from opsd_cli.comparison.supervisor import stopped

    read_plan(directory)  # or say that there is none, before the lock makes a file
    with contextlib.closing(lock_directory(directory)):
        try:
            _go_on(directory, what, out)
        except KeyboardInterrupt:
            raise stopped(directory) from None


def _go_on(directory: Path, what: What, out: Output) -> None:
    """Train what the plan still lacks, then compare."""
    from opsd_cli.comparison.curves import read_curve
    from opsd_cli.comparison.running import (
        comparison_jobs,
        configs_of,
        read_plan,
        tuned,
        tuning_jobs,
        with_rate,
    )

    plan = read_plan(directory)
    configs = configs_of(plan)
    found: dict[str, Tuned] = {}
    if plan["tune"]:
        jobs = tuning_jobs(configs)
        _watch(directory, jobs, what.jobs, out)
        found = tuned(directory, jobs)
        configs = {name: with_rate(c, found[name].chosen) for name, c in configs.items()}
        for name, entry in found.items():
            out.note(f"{name}: learning rate {entry.chosen:g}, chosen on validation")
    jobs = comparison_jobs(configs, plan["seeds"])
    _watch(directory, jobs, what.jobs, out)
    curves = [read_curve(directory / job.name, job.method) for job in jobs]
    target = plan["target"] if what.target is None else what.target
    _conclude(curves, directory, what, out, target, found)


def _compare_finished(what: What, out: Output) -> None:
    from opsd_cli.comparison.curves import read_curve

    if len(what.finished) < 2:
        raise UsageError("one run cannot be compared with itself", "name two runs or more")
    curves = [read_curve(path) for path in what.finished]
    directory = what.out or Path("runs") / f"compare-{datetime.now():%Y%m%d-%H%M%S}"
    _refuse_used(directory)
    _conclude(curves, directory, what, out, what.target, {})


def _conclude(
    curves: Sequence[Curve],
    directory: Path,
    what: What,
    out: Output,
    target: float | None,
    found: dict[str, Tuned],
) -> None:
    """Calculate, write, show, and apply the gate."""
    from opsd_cli.comparison.curves import comparable, labelled
    from opsd_cli.comparison.summary import COMPARISON, summarise, times, verdict
    from opsd_cli.reports import write_comparison_picture, write_comparison_report

    kept, left_out = comparable(curves)
    for path, reason in left_out.items():
        out.warn(f"{path} is left out: {reason}")
    groups = labelled(kept)
    with out.working("calculating intervals"):
        summary = summarise(groups, directory, target, left_out, found)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / COMPARISON, json.dumps(_jsonable(summary), indent=1) + "\n")
    samples = _samples(groups, directory, out)
    picture = write_comparison_picture(summary, directory / "comparison.png")
    page = write_comparison_report(summary, groups, samples, directory)
    out.show(_result_table(summary))
    out.show(_plot(summary, colour=out.results.is_terminal and not out.json))
    out.show(verdict(summary))
    if len(summary["seeds"]) == 1:
        out.warn(
            "one seed: the interval is of the problems alone; how much runs vary between seeds is "
            "not in it (--seeds 3 or more)"
        )
    out.show(f"picture: {picture}\nreport: {page}")
    out.object(summary)
    ratio = summary["token_efficiency"]["ratio"]
    if what.require_ratio is not None and not ratio >= what.require_ratio:
        raise GateNotMet(
            f"the token-efficiency ratio is {times(ratio)}, below the {what.require_ratio:g}× "
            "required",
            f"the comparison itself is complete: {page}",
        )


def _samples(
    groups: dict[str, list[Curve]], directory: Path, out: Output
) -> dict[str, list[dict[str, Any]]]:
    """A few validation completions of each method's first run, with every token's divergence."""
    from opsd_cli.comparison.supervisor import ending

    path = directory / SAMPLES
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    drawn: dict[str, list[dict[str, Any]]] = {}
    with out.working("drawing samples for the page"):
        for label, curves in groups.items():
            command = [
                *OPSD, "sample", "--json", "--quiet", "--divergence",
                "--adapter", str(curves[0].directory), "--limit", str(SAMPLED_PROBLEMS),
            ]  # fmt: skip
            answer = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                **tied(package_environment()),
            )
            if answer.returncode:
                said = answer.stderr.strip().splitlines() or [ending(answer.returncode)]
                out.warn(f"no samples of {label} for the page: {said[0]}")
            else:
                drawn[label] = json.loads(answer.stdout)["completions"]
    if len(drawn) == len(groups):  # otherwise the next time may have more luck
        write_atomic(path, json.dumps(drawn, ensure_ascii=False) + "\n")
    return drawn


def _jsonable(value: Any) -> Any:
    """Infinities and NaN, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value if not isinstance(value, float) or abs(value) < float("inf") else None


def _watch(directory: Path, jobs: Sequence[Job], at_once: int, out: Output) -> None:
    """Run jobs with a table that is redrawn in place, or a line for each that ends."""
    from opsd_cli.comparison.supervisor import run_jobs

    if not out.messages.is_terminal or out.quiet:
        done: set[str] = set()

        def tell(progress: list[Progress]) -> None:
            for entry in progress:
                if entry.state == "done" and entry.job.name not in done:
                    done.add(entry.job.name)
                    if entry.accuracy is not None:
                        out.note(
                            f"{entry.job.name}: test accuracy {entry.accuracy:.1%} after "
                            f"{count(entry.generated)} generated tokens, {duration(entry.seconds)}"
                        )

        run_jobs(directory, jobs, at_once, tell, out.warn)
        return
    from rich.live import Live

    with Live(console=out.messages, refresh_per_second=4) as live:
        run_jobs(
            directory,
            jobs,
            at_once,
            lambda progress: live.update(_progress_table(progress)),
            out.warn,
        )


def _progress_table(progress: Sequence[Progress]) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), expand=True)
    for heading in ("run", "", "step", "accuracy", "generated", "time"):
        table.add_column(heading, ratio=1 if not heading else None, no_wrap=True)
    for entry in progress:
        steps = entry.job.config.train.steps
        table.add_row(
            entry.job.name,
            ProgressBar(steps, entry.step),
            f"{entry.step}/{steps}" if entry.state != "waiting" else "waiting",
            "–" if entry.accuracy is None else f"{entry.accuracy:.1%}",
            count(entry.generated),
            duration(entry.seconds),
        )
    return table


def _result_table(summary: dict[str, Any]) -> Table:
    from rich.table import Table

    from opsd_cli.statistics import Estimate

    table = Table(box=None, padding=(0, 2))
    target = f"{summary['target_accuracy']:.1%}"
    for heading in ("method", "test accuracy (95% interval)", f"tokens to {target}", "generated"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, entry in summary["methods"].items():
        needed = entry["tokens_to_target"]
        table.add_row(
            name,
            percent(Estimate(**entry["accuracy"])),
            "not reached" if needed is None else count(needed),
            count(entry["tokens_generated"]),
        )
    return table


def _plot(summary: dict[str, Any], colour: bool) -> Any:
    """Accuracy over generated tokens, drawn in characters."""
    from rich.text import Text
    from uniplot import plot_to_string

    from opsd_cli.reports.svg import axis_position, linear_until, log_ticks, nice_ticks

    methods = summary["methods"]
    tokens = [[x / 1000 for x in e["curve"]["cost"]["generated"]] for e in methods.values()]
    most = max(map(max, tokens)) or 1.0
    bend = linear_until(tokens)
    ticks = nice_ticks(0, most, 6) if bend is None else [0.0, *log_ticks(bend, most)]
    end = axis_position(most, bend)
    drawn = plot_to_string(
        xs=[[axis_position(x, bend) for x in xs] for xs in tokens],
        ys=[[100 * y for y in e["curve"]["accuracy"]] for e in methods.values()],
        x_min=0,
        x_max=end,
        x_labels=False,
        x_gridlines=[],
        lines=True,
        color=colour,
        legend_labels=[visible(name) for name in methods],
        title="test accuracy, %, over thousand tokens generated",
        y_gridlines=[100 * summary["target_accuracy"]],
        width=PLOT_WIDTH,
        height=PLOT_HEIGHT,
    )
    frame, foot, legend = drawn.partition("┘\n")
    labels = _labels({f"{tick:g}": axis_position(tick, bend) / end for tick in ticks})
    return Text.from_ansi(frame + foot + labels + "\n" + legend)


def _labels(shares: dict[str, float]) -> str:
    """A line of labels below the frame, each centred at its share of the width, none touching."""
    line = [" "] * (PLOT_WIDTH + 4)
    free = 0
    for label, share in shares.items():
        start = max(0, 1 + round(share * (PLOT_WIDTH - 1)) - len(label) // 2)
        if start >= free:
            line[start : start + len(label)] = label
            free = start + len(label) + 1
    return "".join(line).rstrip()
