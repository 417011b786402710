"""What an evaluation found, as an object and as `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_cli.errors import UsageError
from opsd_cli.evaluation.directory import REPORT, EvaluationDirectory
from opsd_cli.evaluation.pairing import against as paired_with
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.statistics import Estimate


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        benchmarks: benchmark -> its `Evaluation`, with every sample.
        summary: the object of `opsd eval --json` and `results.json`; without a directory, its
            `benchmarks` alone.
        directory: the evaluation directory; None if nothing was written.
    """

    benchmarks: dict[str, Evaluation]
    summary: dict[str, Any]
    directory: Path | None = None

    def __getitem__(self, benchmark: str) -> Evaluation:
        return self.benchmarks[benchmark]

    @property
    def report(self) -> Path | None:
        """`report.html`; None if nothing was written."""
        return self.directory / REPORT if self.directory is not None else None

    @property
    def only(self) -> Evaluation:
        """The evaluation of the one benchmark; raises `UsageError` if there are several."""
        if len(self.benchmarks) != 1:
            raise UsageError(
                f"there are {len(self.benchmarks)} benchmarks: {', '.join(self.benchmarks)}",
                "name one: result[NAME]",
            )
        return next(iter(self.benchmarks.values()))

    @property
    def accuracy(self) -> Estimate | None:
        """avg@k of the one benchmark, with its 95% interval clustered by problem; None where
        nothing is graded."""
        return self.only.accuracy

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples of the one benchmark, problem by problem."""
        return self.only.samples


def conclude(
    directory: EvaluationDirectory,
    results: dict[str, Evaluation],
    description: Mapping[str, Any],
    against: Path | None = None,
    more: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Write `results.json`.

    Args:
        results: benchmark -> its evaluation.
        description: what was measured, as `opsd_cli.evaluation.description.describe` gives it.
        against: another evaluation's directory; each benchmark is paired with it by problem.
        more: further entries of the summary.

    Raises:
        RunError: the other evaluation is incomplete, or of other problems or answers.
    """
    summary: dict[str, Any] = {
        "evaluation_dir": str(directory.path),
        **{
            key: description[key]
            for key in ("model", "commit", "adapter", "backend", "sampling", "sampling_from")
        },
        "benchmarks": {
            name: result.as_dict() | {"revision": description["sets"][name]["revision"]}
            for name, result in results.items()
        },
        **(more or {}),
    }
    if against is not None:
        summary["against"] = str(against)
        for name, entry in paired_with(results, directory, against).items():
            summary["benchmarks"][name]["against"] = entry
    directory.write_results(summary)
    return EvaluationResult(results, summary, directory.path)
