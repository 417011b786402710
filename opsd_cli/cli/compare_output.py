"""The output of `opsd compare`: its runs' progress, the result, and a plot in characters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.compare_variants import choices_table
from opsd_cli.cli.console import SILENT_SECONDS, Output
from opsd_cli.cli.folding import Name
from opsd_cli.cli.progress import READING, pace_text, remaining
from opsd_cli.comparison.choice_words import caution, chosen_on, ended_text
from opsd_cli.comparison.jobs import seconds_left
from opsd_cli.comparison.noted_jobs import noting_finished
from opsd_cli.comparison.planned_tokens import planned_sentence
from opsd_cli.comparison.session import Comparison
from opsd_cli.comparison.supervisor import run_jobs
from opsd_cli.comparison.verdict import tokens_needed, tokens_spent
from opsd_cli.formatting import count, duration, percent
from opsd_cli.printable import visible
from opsd_cli.tracking.pace import Left

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from opsd_cli.comparison.jobs import Job, Progress

PLOT_WIDTH, PLOT_HEIGHT = 64, 15
BAR_WIDTH = 10
#: Which accuracy is shown: of runs at work, and of a comparison that is done.
NEWEST = "newest accuracy"
CHOSEN = (
    "test accuracy: of the checkpoint that validation chose in each run; the lines of single runs "
    "have that of their last step"
)


def watched_jobs(directory: Path, jobs: Sequence[Job], at_once: int, out: Output) -> None:
    """Run jobs with a table that is redrawn in place, or a line for each that ends."""
    if not out.messages.is_terminal or out.quiet:
        run_jobs(directory, jobs, at_once, PlainJobs(out, at_once), out.warn)
        return
    from rich.live import Live

    with Live(console=out.messages, refresh_per_second=4) as live:
        run_jobs(
            directory,
            jobs,
            at_once,
            lambda progress: live.update(progress_table(progress, at_once)),
            out.warn,
        )


class PlainJobs:
    """Watches jobs without a terminal: a line for each that ends, and for those at work a line
    every `SILENT_SECONDS`.

    Args:
        clock: seconds.
    """

    def __init__(
        self, out: Output, at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._at_once, self._clock = out, at_once, clock
        self._note_finished = noting_finished(out)
        self._told = clock()

    def __call__(self, progress: list[Progress]) -> None:
        self._note_finished(progress)
        if self._clock() - self._told >= SILENT_SECONDS:
            self._told = self._clock()
            for text in (*running_lines(progress), *left_line(progress, self._at_once)):
                self._out.note(text)


def show(result: Comparison, out: Output) -> None:
    """The table of methods, the plot, the verdict, and where the files are."""
    summary = result.summary
    out.show(_result_table(summary))
    out.show(CHOSEN)
    out.show(_plot(summary, colour=out.results.is_terminal and not out.json))
    if "choices" in summary:
        out.show(choices_table(summary["choices"], len(summary["seeds"])))
    out.show(result.verdict)
    if "choices" in summary:
        out.show(caution(summary["choices"], len(summary["seeds"])))
    if summary["left_out"]:
        out.show(f"left out: {', '.join(summary['left_out'])}; the page says why")
    if "halving" in summary:
        for label, how in summary["halving"]["ended"].items():
            out.show(f"{label}: {ended_text(how)}")
        if summary["halving"]["ended"]:
            out.show(chosen_on(summary["halving"]))
    if "planned" in summary:
        out.show(planned_sentence(summary["planned"]))
    if len(summary["seeds"]) == 1:
        out.warn(
            "one seed: the interval is of the problems alone; how much runs vary between seeds is "
            "not in it (--seeds 3 or more)"
        )
    out.show(f"picture: {result.picture}\nreport: {result.report}")
    out.object(summary)


def running_lines(progress: Sequence[Progress]) -> list[str]:
    """What each running job is doing, a line each."""
    lines = []
    for entry in progress:
        now = entry.current
        if entry.state != "running" or now is None:
            continue
        tokens = "" if now.tokens is None else f" {now.tokens:,}/{now.most:,} tokens"
        doing = f", {READING}" if now.reading else ""
        parts = [f"{entry.job.name}: {now.phase}{doing}{tokens}"]
        if now.tokens_per_second is not None:
            parts.append(pace_text(now.tokens_per_second))
        if now.left is not None:
            parts.append(remaining(Left(now.left, now.at_most)))
        lines.append(", ".join(parts))
    return lines


def left_line(progress: Sequence[Progress], at_once: int) -> list[str]:
    """The time left of the whole comparison, where it is known."""
    left = seconds_left(progress, at_once)
    return (
        []
        if left is None
        else [f"{len(progress)} run{'s' * (len(progress) != 1)}: {remaining(Left(left))}"]
    )


def progress_table(progress: Sequence[Progress], at_once: int) -> Group:
    """A row for each job, and a line for each that is running."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1))
    for heading in ("run", "", "step", NEWEST, "generated", "time"):
        table.add_column(heading, no_wrap=heading != "run")
    for entry in progress:
        steps = entry.job.until
        table.add_row(
            Name(entry.job.name),
            ProgressBar(steps, entry.step, width=BAR_WIDTH),
            f"{entry.step}/{steps}" if entry.state != "waiting" else "waiting",
            _newest(entry),
            count(entry.generated),
            duration(entry.current.seconds if entry.current else entry.seconds),
        )
    lines = [*running_lines(progress), *left_line(progress, at_once)]
    return Group(table, *(Text(visible(text), style="dim") for text in lines))


def _newest(entry: Progress) -> str:
    """The newest accuracy on test, or on validation where test waits for the end."""
    if entry.accuracy is not None:
        return f"{entry.accuracy:.1%}"
    return "–" if entry.validation is None else f"{entry.validation:.1%} (validation)"


def _result_table(summary: dict[str, Any]) -> Table:
    from rich.table import Table

    from opsd_cli.statistics import Estimate

    table = Table(box=None, padding=(0, 2, 0, 0))
    target = f"{summary['target_accuracy']:.1%}"
    headings = ("method", "test accuracy\n(95% interval)", f"tokens to {target}", "generated")
    for heading in headings:
        table.add_column(
            heading,
            justify="left" if heading == "method" else "right",
            no_wrap=heading in headings[1::2],
        )
    for name, entry in summary["methods"].items():
        table.add_row(
            Name(name),
            percent(Estimate(**entry["accuracy"])),
            tokens_needed(summary, name),
            tokens_spent(summary, name),
        )
    return table


def _plot(summary: dict[str, Any], colour: bool) -> Any:
    """Accuracy over generated tokens, drawn in characters."""
    from rich.text import Text
    from uniplot import plot_to_string

    from opsd_cli.reports.scales import (
        axis_position,
        linear_until,
        log_ticks,
        nice_ticks,
        tick_label,
    )

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
        y_min=0,
        y_max=101,  # at exactly 100 the axis has no label for it
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
    labels = _labels({tick_label(tick): axis_position(tick, bend) / end for tick in ticks})
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
