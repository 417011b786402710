"""The page of any run, evaluation or comparison again, finished or not: for `opsd report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsd_cli.comparison.stored import is_comparison, stored_comparison, stored_progress
from opsd_cli.errors import RunError
from opsd_cli.evaluation.directory import DESCRIPTION, EvaluationDirectory
from opsd_cli.evaluation.stored import stored_evaluation
from opsd_cli.reports.comparison_pages import write_comparison_pages
from opsd_cli.reports.evaluation_report import write_evaluation_report
from opsd_cli.reports.run_report import write_run_report
from opsd_cli.reports.unfinished_comparison import write_unfinished_comparison
from opsd_cli.tracking.listener import Messages
from opsd_cli.training import run_directory


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Attributes:
        kind: "run", "evaluation" or "comparison".
        path: of `report.html`.
        finished: False for one that was interrupted or is still at work.
    """

    kind: str
    path: Path
    finished: bool


def write_report(directory: Path, out: Path | None, messages: Messages) -> Report:
    """Write the page of what a directory holds; nothing is trained, sampled or graded.

    Args:
        out: the directory to write to; by default the same.

    Raises:
        RunError: the directory is no run, evaluation or comparison, or a file of it is damaged.
        NotWritten: the page cannot be written.
    """
    try:
        return _write_report(directory, out, messages)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"a file in {directory} is damaged, or of another version ({type(error).__name__}: "
            f"{error})",
            "--resume checks every file of a run, and names what is damaged",
        ) from error


def _write_report(directory: Path, out: Path | None, messages: Messages) -> Report:
    if is_comparison(directory):
        return _comparison(directory, out, messages)
    if (directory / DESCRIPTION).is_file():
        evaluation = EvaluationDirectory(directory)
        stored = stored_evaluation(evaluation)
        path = write_evaluation_report(
            evaluation, stored.results, stored.summary, out, None if stored.finished else stored
        )
        return Report("evaluation", path, stored.finished)
    if (directory / run_directory.CONFIG).is_file():
        finished = run_directory.result_of(directory) is not None
        return Report("run", write_run_report(directory, out), finished)
    if not directory.exists():
        raise RunError(f"there is no directory {directory}", "give the --out of an earlier command")
    raise RunError(
        f"{directory} is no run, evaluation or comparison",
        "give the directory that `opsd train`, `opsd eval` or `opsd compare` wrote to (--out)",
    )


def _comparison(directory: Path, out: Path | None, messages: Messages) -> Report:
    with messages.working("calculating intervals"):
        comparison = stored_comparison(directory)
    if comparison is None:
        path = write_unfinished_comparison(stored_progress(directory), directory, out)
        return Report("comparison", path, False)
    return Report("comparison", write_comparison_pages(comparison, messages, out, False), True)
