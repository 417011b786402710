"""`opsd report`."""

from __future__ import annotations

from pathlib import Path

from opsd_cli.cli.console import Output
from opsd_cli.reports.again import write_report


def run(directory: Path, target: Path | None, out: Output) -> None:
    """Write the page of a run, an evaluation or a comparison again, and say where it is."""
    written = write_report(directory, target, out)
    if not written.finished:
        out.warn(
            f"the {written.kind} in {directory} has not finished: the page is of what is there"
        )
    out.show(f"report: {written.path}")
    out.object(
        {
            "directory": str(directory),
            "kind": written.kind,
            "finished": written.finished,
            "report": str(written.path),
        }
    )
