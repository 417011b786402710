"""What runs of a domain show: accuracies on the test problems, and the gain, with 95% intervals.

Intervals are over seeds and problems (`opsd_cli.comparison.crossed`); with one seed, over problems.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsd_cli.comparison.crossed import crossed_mean
from opsd_cli.formatting import percent, points, share
from opsd_cli.statistics import Estimate


@dataclass(frozen=True)
class Outcome:
    """A domain's result over its seeds; accuracies are shares of the test problems.

    Attributes:
        grader: which graded the runs.
        with_reference: the base with the reference, on the training problems of the preflight; None
            where nothing was graded.
        generated: tokens that a run's rollouts have, the mean.
        cpu_seconds: of a run, the mean.
    """

    domain: str
    grader: str
    seeds: int
    problems: int
    before: Estimate
    after: Estimate
    gain: Estimate
    with_reference: float | None
    generated: float
    cpu_seconds: float


#: In a run's directory: the correct samples of test problems, where another grader measured them.
MEASURED = "measured.json"


def correct_of(run: Path) -> tuple[list[float], list[float]]:
    """Each test problem's share of right samples, before the run and at its best checkpoint."""
    if (run / MEASURED).is_file():
        measured = _read(run / MEASURED)
        return measured["before"], measured["after"]
    lines = (run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "test"]
    best = json.loads((run / "result.json").read_text(encoding="utf-8"))["best_step"]
    before, after = (
        next(row["correct"] for row in rows if row["step"] == step) for step in (0, best)
    )
    return before, after


def outcome_of(domain: str, grader: str, runs: Sequence[Path]) -> Outcome:
    """The result of finished runs that differ in their seed alone."""
    before_SP, after_SP = map(np.array, zip(*map(correct_of, runs), strict=True))
    results = [_read(run / "result.json") for run in runs]
    teachers = [_read(run / "preflight.json").get("teacher") for run in runs]
    return Outcome(
        domain=domain,
        grader=grader,
        seeds=len(runs),
        problems=before_SP.shape[1],
        before=crossed_mean(before_SP).estimate(0.0, 1.0),
        after=crossed_mean(after_SP).estimate(0.0, 1.0),
        gain=crossed_mean(after_SP - before_SP).estimate(),
        with_reference=float(np.mean([each["value"] for each in teachers]))
        if all(teachers)
        else None,
        generated=float(np.mean([each["tokens"]["generated"] for each in results])),
        cpu_seconds=float(np.mean([each["cpu_seconds"] for each in results])),
    )


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """The results as a Markdown table."""
    heads = ("domain", "grader", "seeds", "teacher", "before", "after", "gain", "generated tokens")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in outcomes:
        teacher = "–" if each.with_reference is None else share(each.with_reference)
        cells = (
            each.domain, f"`{each.grader}`", str(each.seeds), teacher, percent(each.before),
            percent(each.after), points(each.gain), f"{each.generated:,.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
