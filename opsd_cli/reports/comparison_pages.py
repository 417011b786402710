"""All that a person looks at after a comparison: the picture, and the report with samples."""

from __future__ import annotations

from opsd_cli.comparison.page_samples import page_samples
from opsd_cli.comparison.session import Comparison
from opsd_cli.reports.comparison_picture import write_comparison_picture
from opsd_cli.reports.comparison_report import write_comparison_report
from opsd_cli.tracking.listener import Messages


def write_comparison_pages(comparison: Comparison, messages: Messages) -> None:
    """Write a comparison's `comparison.png` and `report.html`.

    Samples for the report are generated with each method's adapter, unless they exist already.
    """
    samples = page_samples(comparison.groups, comparison.directory, messages)
    write_comparison_picture(comparison.summary, comparison.picture)
    write_comparison_report(comparison.summary, comparison.groups, samples, comparison.directory)
