"""All that a person looks at after a comparison: the picture, and the report with samples."""

from __future__ import annotations

from pathlib import Path

from opsd_cli.comparison.page_samples import page_samples, stored_samples
from opsd_cli.comparison.session import PICTURE, Comparison
from opsd_cli.reports.comparison_picture import write_comparison_picture
from opsd_cli.reports.comparison_report import write_comparison_report
from opsd_cli.tracking.listener import Messages


def write_comparison_pages(
    comparison: Comparison, messages: Messages, out: Path | None = None, sample: bool = True
) -> Path:
    """Write a comparison's `comparison.png` and `report.html`; returns the report's path.

    Args:
        out: the directory to write to; by default the comparison's.
        sample: generate samples for the report with each method's adapter, unless they exist.
    """
    directory = comparison.directory
    samples = (
        page_samples(comparison.groups, directory, messages)
        if sample
        else stored_samples(directory)
    )
    out = out or directory
    write_comparison_picture(comparison.summary, out / PICTURE)
    return write_comparison_report(comparison.summary, comparison.groups, samples, out)
