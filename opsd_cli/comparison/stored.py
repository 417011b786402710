"""A comparison that was made before, from its directory: for its pages, not for its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opsd_cli.comparison.choices import variation_of
from opsd_cli.comparison.curves import Curve, read_curve
from opsd_cli.comparison.jobs import PLAN, Progress, Tuned, progress_of
from opsd_cli.comparison.phases import facts_of, jobs_of
from opsd_cli.comparison.session import Comparison
from opsd_cli.comparison.summary import COMPARISON, summarise
from opsd_cli.errors import RunError
from opsd_cli.files.json_files import read_object


def is_comparison(directory: Path) -> bool:
    """Whether a directory holds a comparison, finished or not."""
    return (directory / PLAN).is_file() or (directory / COMPARISON).is_file()


def stored_comparison(directory: Path) -> Comparison | None:
    """A finished comparison, calculated again from its runs; None if it has not finished.

    `comparison.json` has no infinity and no NaN, and an older one lacks keys, so it serves to find
    the runs and the target alone.

    Raises:
        RunError: it is damaged, or a run is not there any more.
        DataError: a run lacks what a comparison needs.
    """
    path = directory / COMPARISON
    if not path.is_file():
        return None
    found = read_object(path)
    wanted = {"methods", "target_from", "target_accuracy", "left_out", "tuned"}
    if found is None or not found.keys() >= wanted:
        raise RunError(f"{path} is damaged", "compare the runs again: opsd compare RUN RUN")
    groups = {
        label: [read_curve(_run(directory, run), entry["method"]) for run in entry["runs"]]
        for label, entry in found["methods"].items()
    }
    return Comparison(_summary(found, groups, directory), groups, directory)


def _summary(
    found: dict[str, Any], groups: dict[str, list[Curve]], directory: Path
) -> dict[str, Any]:
    target = found["target_accuracy"] if found["target_from"] == "given" else None
    tuned = {
        name: Tuned(**{**entry, "rates": tuple(entry["rates"]),
                       "validation": tuple(entry["validation"])})
        for name, entry in found["tuned"].items()
    }  # fmt: skip
    variation = variation_of(found["choices"]) if found.get("choices") else None
    summary = summarise(groups, directory, target, found["left_out"], tuned, variation=variation)
    return summary | facts_of(directory, groups)


def _run(directory: Path, run: str) -> Path:
    """A run where it was, or in the comparison's directory if that was moved."""
    path = Path(run)
    return path if path.is_dir() else directory / path.name


def stored_progress(directory: Path) -> Sequence[Progress]:
    """How far the runs of an unfinished comparison are; a tuned comparison's search first.

    Raises:
        RunError: `plan.json` is missing or damaged.
    """
    return [progress_of(directory, job, running=False) for job in jobs_of(directory)]
