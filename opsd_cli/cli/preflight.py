"""`opsd train --preflight-only`: what it refuses, and the table that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.console import Output
from opsd_cli.cli.folding import Name
from opsd_cli.cli.listeners import watched
from opsd_cli.cli.request import Request
from opsd_cli.cli.stopping import stop_on_signal
from opsd_cli.devices.number import count as count_devices
from opsd_cli.errors import PreflightFailed, UsageError
from opsd_cli.formatting import count, numbered, percent, points
from opsd_cli.loading import loaded_policy
from opsd_cli.planning.available_splits import available_splits
from opsd_cli.planning.preflight_plan import preflight_plan
from opsd_cli.prompts.references import shown_reference
from opsd_cli.statistics import Estimate
from opsd_cli.training import session
from opsd_cli.training.preflight_advice import is_few
from opsd_cli.training.preflight_check import (
    PreflightResult,
    check,
    new_directory,
    require_teacher,
)
from opsd_cli.training.preflight_comparison import (
    Compared,
    control_does_as_well,
    may_be_chance,
)
from opsd_cli.training.preflight_divergence import is_ungraded, lines_of
from opsd_cli.training.preflight_failure import LOOK, REGARDLESS
from opsd_cli.training.preflight_signal import described as described_signal
from opsd_cli.training.preflight_signal import shown_share
from opsd_cli.training.preflight_sources import chosen_sources
from opsd_cli.training.preflight_verdict import UNMEASURED
from opsd_cli.training.schedule import require_enough

if TYPE_CHECKING:
    from rich.table import Table

    from backends.interface import Policy
    from opsd_cli.config.schema import Config
    from opsd_cli.tracking.listener import Listener


def run(request: Request, directory: Path | None, resume: bool, sources: str | None = None) -> None:
    """Measure student and teacher before any training, and show what the numbers mean.

    Args:
        sources: references to compare, with commas between; by default all that are possible.

    Raises:
        UsageError: flags that contradict `--preflight-only`, a method without a teacher, or a
            source that the problems do not have.
        PreflightFailed: a run would not go on to train.
    """
    out = request.out
    for given, flag, why in (
        (resume, "--resume", "goes on with a run, whose preflight is done"),
        (bool(request.flags.get("log")), "--log", "copies the metrics of a run"),
    ):
        if given:
            raise UsageError(
                f"--preflight-only measures before any training, and {flag} {why}",
                f"leave out {flag}, or --preflight-only",
            )
    config = request.config()
    require_teacher(config)
    named = None if sources is None else [each.strip() for each in sources.split(",")]
    if request.dry_run:
        _plan(config, named, out)
        return
    count_devices(request.devices, config)
    with new_directory(directory):
        config, splits, _ = session.prepared(config, out)
        require_enough(config.train.questions_per_step, len(splits.train.problems))
        for warning in splits.warnings:
            out.warn(warning)
        asked = splits.train.problems[: config.preflight.problems]
        chosen = chosen_sources(config, asked, named)

        def work(policy: Policy, listener: Listener) -> PreflightResult:
            return check(policy, splits, config, directory, listener, stopped.is_set, chosen)

        with (
            loaded_policy(config, out, True, devices=request.devices) as policy,
            stop_on_signal(out) as stopped,
        ):
            found = watched(out, partial(work, policy))
    show(found, out)
    out.object(found.as_dict())
    if not found.verdict.goes_on:
        signal = described_signal(found.record.get("signal"))
        unmeasured = is_ungraded(found.record) or found.verdict.conclusion == UNMEASURED
        raise PreflightFailed(
            f"{found.verdict.conclusion}: {found.verdict.meaning}"
            + (f". Of the teacher: {signal}" if signal else ""),
            f"{found.verdict.advice}; then measure again"
            + ("" if unmeasured else f". To look: {LOOK}. {REGARDLESS}"),
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
    if found.compared is not None:
        show_sources(found.compared, out)
    if verdict.goes_on:
        out.note(
            "next: the same command without --preflight-only trains (with another --out), and "
            "measures its own reference again"
        )


def _ungraded_table(record: Mapping[str, Any]) -> Table:
    """What was measured where nothing is graded."""
    from rich.table import Table

    table = Table(
        title=f"preflight on {numbered(record['problems'], 'training problem')}; nothing is graded",
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
    measured = numbered(record["problems"], "training problem")
    table = Table(
        title=f"preflight on {measured}; the teacher has the reference",
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


def _plan(config: Config, named: list[str] | None, out: Output) -> None:
    """Show what the comparison would take."""
    splits = available_splits(config, out)
    if splits is None:
        raise UsageError(
            "what a preflight takes depends on its problems, which are not at hand",
            "get them first: opsd data check NAME",
        )
    train = splits.train.problems
    asked = train[: config.preflight.problems]
    plan = preflight_plan(config, train, chosen_sources(config, asked, named))
    out.show(
        f"preflight on {plan.problems} of {len(train):,} training problems\n"
        f"sources: {', '.join(map(shown_reference, plan.sources))}\n"
        f"completions: at most {plan.completions:,}, "
        f"{count(plan.completion_tokens_at_most)} tokens\n"
        f"scored: at most {count(plan.teacher_scored_tokens_at_most)} tokens by the teacher, "
        f"{count(plan.scored_tokens_at_most)} by the student\n"
        "  fewer: --sources, preflight.problems, sampling.max_new_tokens\nnothing was written"
    )
    out.object({"plan": plan.as_dict()})


def show_sources(compared: Compared, out: Output) -> None:
    """Show each source of a reference beside the others, and which one to take."""
    from rich.table import Table

    table = Table(
        title="the teacher with each reference (95% intervals)",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    headings = ("reference", "right", "favours right", "share", "another problem's", "helps")
    for heading in headings:
        first = heading == headings[0]
        table.add_column(heading if first else heading.replace(" ", "\n", 1), no_wrap=not first)
    for row in compared.rows:
        name = Name(shown_reference(row["reference"], LONGEST_NAME))
        if not row["problems"]:
            table.add_row(name, "", "", "", "", "no problem has it")
            continue
        table.add_row(
            name, _interval(row["teacher"]), _interval(row["signal"]["preference"]),
            _share(row["signal"]), _interval(row["control"]["preference"]),
            _helps(row),
        )  # fmt: skip
    out.show("")
    out.show(table)
    out.show(FAVOURS)
    alike = [row for row in compared.rows if row["problems"] and control_does_as_well(row)]
    if alike:
        names = ", ".join(shown_reference(row["reference"], 24) for row in alike)
        out.show(
            f"{names}: another problem's reference separates right from wrong as well. It may be "
            "the prompt around the reference that teaches, and not what the reference says."
        )
    best = compared.recommended
    take = "" if best is None else f"recommended: teacher.reference={shown_reference(best)}; "
    out.show(f"{take}{compared.reason}.")


#: Characters of a reference in the table of sources: a template may be a whole prompt.
LONGEST_NAME = 60
#: What the columns of the table of sources are.
FAVOURS = (
    "favours right: of two of the student's attempts at one question, a right and a wrong one, how "
    "often the teacher raises the right one more; 50% is chance. share: how much of what the "
    "teacher changes separates right from wrong. another problem's: favours right, with the "
    "reference of another problem in the prompt."
)


def _helps(row: Mapping[str, Any]) -> str:
    """Whether a source helps, in the words of the table's last column."""
    if may_be_chance(row):
        return "may be chance"
    if row["goes_on"]:
        return "yes"
    return "too few to tell" if is_few(row["problems"]) else "no"


def _share(signal: Mapping[str, Any]) -> str:
    """The share of a signal; a dash if it is not known."""
    return "-" if signal["preference"] is None else shown_share(signal)


def _interval(estimate: Mapping[str, float] | None) -> str:
    """A share with its interval, in whole percent; a dash if it is not known."""
    if estimate is None:
        return "-"
    low, high = (f"{100 * estimate[end]:.0f}" for end in ("low", "high"))
    return f"{estimate['value']:.0%} ({low}–{high})"
