"""`report.html` of a comparison that was interrupted: how far each run is, and its curve so far."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from opsd_cli.comparison.jobs import Progress
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.directory_lock import lock_holder
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import count, duration, share
from opsd_cli.reports.chart import Series, line_chart
from opsd_cli.reports.page import figure, html_page, named_model, table
from opsd_cli.reports.run_report import COLOURS, REPORT
from opsd_cli.reports.scales import linear_until
from opsd_cli.training import run_directory

HEADS = (
    "run", "state", "steps", "newest validation", "newest test accuracy", "tokens generated",
    "time",
)  # fmt: skip
#: What `Progress.state` says where no process is at work.
STATES = {"done": "finished", "waiting": "not begun"}


def write_unfinished_comparison(
    progress: Sequence[Progress], directory: Path, out: Path | None = None
) -> Path:
    """Write the report; returns its path.

    Args:
        progress: of each run, as `opsd_cli.comparison.stored.stored_progress` gives it.
        directory: the comparison's.
        out: the directory to write to; by default the comparison's.
    """
    done = sum(entry.state == "done" for entry in progress)
    model = named_model(progress[0].job.config.model)
    holder = lock_holder(directory)
    state = (
        f"At the time of this page it was at work ({holder})."
        if holder is not None
        else "It was interrupted. Go on with it: opsd compare --resume --out " + str(directory)
    )
    rows = [
        (
            entry.job.name,
            _state(entry),
            f"{entry.step} of {entry.job.config.train.steps}",
            "–" if entry.validation is None else share(entry.validation),
            "–" if entry.accuracy is None else share(entry.accuracy),
            count(entry.generated),
            duration(entry.seconds),
        )
        for entry in progress
    ]
    sections = [
        f"<h1>{escape(f'The comparison on {model} has not finished: {done} of {len(progress)}')} "
        "runs are done.</h1>",
        f"<p class=remark>{escape(state)}</p>",
        f"<h2>Runs</h2>{table(HEADS, rows)}",
        _curves(progress, directory),
    ]
    path = (out or directory) / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, html_page(f"opsd compare: {directory.name}", sections))
    return path


def _state(entry: Progress) -> str:
    """What a run is at where no process is at work."""
    if entry.state == "done" and entry.job.pause is not None:
        return "at the end of its round"
    return STATES[entry.state] if entry.state == "done" or not entry.step else "begun"


def _curves(progress: Sequence[Progress], directory: Path) -> str:
    series: list[Series] = []
    for entry in progress:
        rows = [
            row
            for row in read_rows(directory / entry.job.name / run_directory.EVALUATIONS)
            if row["split"] == "test"
        ]
        points = [(row["generated"], row["accuracy"]["value"]) for row in rows]
        band = [(row["accuracy"]["low"], row["accuracy"]["high"]) for row in rows]
        if points:
            colour = COLOURS[len(series) % len(COLOURS)]
            series.append(Series(entry.job.name, colour, points, band))
    if not series:
        return ""
    bend = linear_until([[x for x, _ in line.points] for line in series])
    chart = line_chart(series, "tokens generated", "accuracy", percent=True, bend=bend)
    return f"<h2>So far</h2>{figure('test accuracy of each run, with 95% intervals', chart)}"
