"""Mean scores of arms whose grader gives numbers, at the checkpoint that validation chose.

Where a grader gives numbers (`grading.weights`, JSON, constraints), few samples may count as right,
and accuracy alone hides most of what was learnt. The scores are those of `evaluations.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsd_cli.comparison.crossed import crossed_mean
from opsd_cli.comparison.curves import Curve
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory

Array = NDArray[np.float64]


def scores_of(curves: Sequence[Curve]) -> Array | None:
    """Each test problem's mean score at the best step of each run, [S, P].

    None where the grader gives verdicts alone, or a run is of a version that kept no scores.
    """
    found = [_scores(curve) for curve in curves]
    return None if any(each is None for each in found) else np.array(found, np.float64)


def _scores(curve: Curve) -> list[float] | None:
    best = curve.result["best_step"]
    for row in read_rows(curve.directory / run_directory.EVALUATIONS):
        if row["split"] == "test" and row["step"] == best:
            return row.get("scores")
    return None


def mean_score(curves: Sequence[Curve]) -> dict[str, float] | None:
    """The mean score of an arm's runs with its 95% interval over seeds and problems."""
    score_SP = scores_of(curves)
    return None if score_SP is None else crossed_mean(score_SP).estimate(0.0).as_dict()


def score_difference(one: Sequence[Curve], other: Sequence[Curve]) -> dict[str, Any] | None:
    """The mean score of `one` less that of `other`, paired by seed and problem.

    None where one has no scores, or no seed is common to both.
    """
    seeds = {curve.seed for curve in one} & {curve.seed for curve in other}
    if not seeds:
        return None
    pair = []
    for curves in (one, other):
        by_seed = sorted((c for c in curves if c.seed in seeds), key=lambda curve: curve.seed)
        pair.append(scores_of(by_seed))
    if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
        return None
    return crossed_mean(pair[0] - pair[1]).estimate().as_dict()
