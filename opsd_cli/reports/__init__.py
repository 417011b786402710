"""Self-contained HTML reports of runs, evaluations and comparisons, and PNG pictures of them."""

from __future__ import annotations

from opsd_cli.reports.comparison_picture import write_comparison_picture
from opsd_cli.reports.comparison_report import write_comparison_report
from opsd_cli.reports.picture import write_picture
from opsd_cli.reports.run_report import write_run_report

__all__ = [
    "write_comparison_picture",
    "write_comparison_report",
    "write_picture",
    "write_run_report",
]
