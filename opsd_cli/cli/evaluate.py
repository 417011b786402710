"""`opsd eval`: its flags, and the table that it shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from opsd_cli.cli.console import Output
from opsd_cli.cli.folding import Name
from opsd_cli.cli.listeners import watched
from opsd_cli.cli.request import Request
from opsd_cli.devices.number import count as count_devices
from opsd_cli.errors import UsageError
from opsd_cli.evaluation.description import setting_name
from opsd_cli.evaluation.directory import SAMPLES
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.pairing import difference_of
from opsd_cli.evaluation.preparation import (
    EvaluationSession,
    directory_to_continue,
    prepare,
    with_samples,
    without_analyses,
)
from opsd_cli.evaluation.result import EvaluationResult
from opsd_cli.evaluation.session import ready_to_draw
from opsd_cli.evaluation.session import run as run_evaluation
from opsd_cli.formatting import (
    count,
    gain_by_part,
    nats,
    percent,
    points,
    score_change,
    strict_and_flexible,
)
from opsd_cli.grading import traits_of
from opsd_cli.planning.readiness import require_model_at_hand, require_ready
from opsd_cli.reports.evaluation_report import write_evaluation_report

if TYPE_CHECKING:
    from rich.table import Table

#: Differing settings that are named; the rest are counted.
MOST_NAMED = 6


@dataclass(frozen=True)
class Options:
    """The flags of `opsd eval` alone."""

    benchmarks: tuple[str, ...]
    limit: int | None
    out: Path | None
    resume: bool
    regrade: bool
    against: Path | None = None
    temperature: float | None = None

    @property
    def names(self) -> list[str]:
        """The benchmarks of every `--benchmark`, separated at commas."""
        return [name for given in self.benchmarks for name in given.split(",") if name]


def run(request: Request, options: Options) -> None:
    """Evaluate every benchmark, or grade again what is there."""
    out = request.out
    again = options.resume or options.regrade
    directory = directory_to_continue(options.out, again, options.against)
    if again and directory is None:
        flag = "--regrade" if options.regrade else "--resume"
        raise UsageError(f"{flag} needs the evaluation's directory", "give --out DIR")
    config = request.config(inherit=True, base=directory.config_file if directory else None)
    if directory is not None and request.flags["evaluation"]["samples"] is None:
        config = with_samples(config, directory.description["samples"])
    session = prepare(
        config, directory, options.names, options.limit, out, regrading=options.regrade,
        temperature=options.temperature,
    )  # fmt: skip
    if request.dry_run:
        if not options.regrade:  # which loads no model
            if session.directory is not None:  # refuses as the run would
                session = ready_to_draw(session, out)
            require_ready(session.config, out, learns=False)
            count_devices(request.devices, without_analyses(session.config))
            require_model_at_hand(session.config)
        _show_plan(session, out)
        return
    result = run_evaluation(
        session,
        options.out,
        out,
        watch=partial(watched, out),
        write_report=write_evaluation_report,
        against=options.against,
        regrading=options.regrade,
        devices=request.devices,
    )
    if options.regrade:
        regraded, changed = result.summary["regraded"], result.summary["changed"]
        out.show(f"graded {regraded:,} samples again: {changed} changed")
    _show(result, session, out)


def _show(result: EvaluationResult, session: EvaluationSession, out: Output) -> None:
    assert result.directory is not None
    _show_table(result, out)
    _show_flexible(result, session, out)
    _show_pairs(result, out)
    out.show(f"samples: {result.directory / SAMPLES}\nreport: {result.report}")
    out.object(result.summary)


def _show_table(result: EvaluationResult, out: Output) -> None:
    from rich.table import Table

    # No wider than 80 columns: headings break at marked places, cells never.
    table = Table(box=None, padding=(0, 1, 0, 0))
    k = next(iter(result.benchmarks.values())).samples_per_problem
    found = result.benchmarks.values()
    if not all(one.graded for one in found):
        out.show(_ungraded_table(result))
        return
    scored = any(one.mean_score is not None for one in found)
    voted = k > 1 and any(one.majority is not None for one in found)
    headings = ["benchmark", "problems", f"avg@{k}\n(95% interval)"]
    headings += ["mean\nscore"] * scored + [f"pass@{k}"] * (k > 1) + [f"maj@{k}"] * voted
    for heading in (*headings, "cut off", "no\nanswer", "mean\ntokens"):
        left = heading == "benchmark"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for name, one in result.benchmarks.items():
        assert one.accuracy is not None
        row: list[str | Name] = [Name(name), str(len(one.problem_ids)), percent(one.accuracy)]
        row += ["–" if one.mean_score is None else f"{one.mean_score.value:.3f}"] * scored
        row += [f"{100 * one.pass_at[k].value:.1f}%"] * (k > 1)
        row += ["–" if one.majority is None else f"{100 * one.majority.value:.1f}%"] * voted
        row += [f"{one.truncated:.1%}", f"{one.no_answer:.1%}", count(one.mean_tokens)]
        table.add_row(*row)
    out.show(table)


def _ungraded_table(result: EvaluationResult) -> Table:
    """Lengths, and the likelihood of the solutions, where nothing is graded."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = (
        "benchmark", "problems", "log-probability of the\nsolutions, nats a token", "stopped",
        "mean\ntokens", "median",
    )  # fmt: skip
    for heading in headings:
        left = heading == "benchmark"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for name, one in result.benchmarks.items():
        likely = "–" if one.reference_log_prob is None else nats(one.reference_log_prob)
        median = one.token_statistics()["median"] or 0
        stopped, mean = f"{1 - one.truncated:.1%}", count(one.mean_tokens)
        table.add_row(Name(name), str(len(one.problem_ids)), likely, stopped, mean, count(median))
    return table


def _show_flexible(result: EvaluationResult, session: EvaluationSession, out: Output) -> None:
    """Strict and flexible accuracy, where answers are mathematics."""
    if not traits_of(session.config.grading).mathematics:
        return
    for name, found in result.benchmarks.items():
        flexible = found.flexible_accuracy
        if found.accuracy is None or flexible is None:
            out.note(f"{name}: some samples have no flexible grade; --regrade adds it")
        else:
            out.show(f"{name}: {strict_and_flexible(found.accuracy, flexible)}")


def _show_pairs(result: EvaluationResult, out: Output) -> None:
    """The differences to another evaluation, benchmark by benchmark."""
    for name, entry in result.summary["benchmarks"].items():
        if "against" not in entry:
            continue
        paired = entry["against"]
        out.show(
            f"{name} against {result.summary['against']}: {points(difference_of(paired))}; of "
            f"{entry['problems']} problems better on {paired['problems_ahead']} and worse on "
            f"{paired['problems_behind']}"
        )
        if flexible := paired["flexible_difference"]:
            parts = gain_by_part(paired["difference"]["value"], flexible["value"])
            out.show(f"{name}, of that difference: {parts}")
        if "score_difference" in paired:
            out.show(f"{name}, mean score: {score_change(paired['score_difference'])}")
        differing = paired["settings_that_differ"]
        if differing:
            named = ", ".join(map(setting_name, differing[:MOST_NAMED]))
            more = f" and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
            out.note(f"the two differ in {named}{more}")


def _show_plan(session: EvaluationSession, out: Output) -> None:
    config = session.config
    samples, sampling = config.evaluation.samples, evaluation_sampling(config)
    plan = session.plan()
    for name, entry in plan.items():
        kept = f", {entry['completions_kept']:,} of them kept" if session.directory else ""
        out.show(
            f"{name}: {entry['problems']:,} problems × {samples} samples{kept}, at most "
            f"{entry['generated_tokens_at_most']:,} generated tokens"
        )
    thinking = "thinking" if config.thinks else "not thinking"
    out.show(
        f"model {config.model}, {thinking}; temperature {sampling.temperature:g}, "
        f"top-p {sampling.top_p:g}, top-k {sampling.top_k} ({session.sampling_from}); "
        "nothing was written"
    )
    out.object({"config": json.loads(config.model_dump_json()), "plan": plan})
