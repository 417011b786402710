"""Paired differences between two evaluations of the same problems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from opsd_cli.config.grading_section import Grading
from opsd_cli.errors import RunError, UsageError
from opsd_cli.evaluation.directory import EXTENT, EvaluationDirectory
from opsd_cli.evaluation.samples import Evaluation, assemble
from opsd_cli.grading import grades
from opsd_cli.statistics import Estimate, paired_difference, paired_score_difference


def require_grades(grading: Grading, other: Path) -> None:
    """Raise `UsageError` if either evaluation has no grades to pair.

    Args:
        grading: of this evaluation.
        other: the other evaluation's directory.
    """
    theirs = Grading(grader=EvaluationDirectory.open(other).description["grader"])
    for whose, section in (("this evaluation", grading), (str(other), theirs)):
        if not grades(section):
            raise UsageError(
                f"--against compares accuracies, and {whose} has none: its grading.grader is none",
                "leave out --against; results.json of each has the likelihood of the solutions "
                "(reference_log_prob)",
            )


def against(
    results: Mapping[str, Evaluation], directory: EvaluationDirectory, other: Path
) -> dict[str, dict[str, Any]]:
    """The difference in accuracy to another evaluation, for each benchmark.

    Args:
        results: benchmark -> this evaluation's samples.
        directory: this evaluation's directory.
        other: the other evaluation's directory.

    Returns:
        benchmark -> the difference with its 95% interval (Newcombe's method 10 on per-problem
        rates), the number of problems on which each is ahead, the other's samples per problem, and
        the settings in which the two differ. `flexible_difference` is the same by the flexible
        rule, None unless both have it; `score_difference` is that of mean scores, and there only
        where the grader of both gives numbers.

    Raises:
        RunError: the other is not an evaluation, has other problems or answers, or is incomplete.
    """
    theirs = EvaluationDirectory.open(other)
    ours_known, theirs_known = directory.problems(), theirs.problems()
    mine, yours = directory.description, theirs.description
    differing = sorted(
        key for key in (mine.keys() | yours.keys()) - set(EXTENT) if mine.get(key) != yours.get(key)
    )
    found = {}
    for name, result in results.items():
        have = theirs_known.get(name, {})
        if not have:
            raise RunError(
                f"{other} does not hold {name}; it holds {', '.join(theirs_known) or 'nothing'}",
                "measure both on the same --benchmark",
            )
        for problem_id in result.problem_ids:
            if have.get(problem_id) != ours_known[name][problem_id]:
                raise RunError(
                    f"{other} has other problems or answers of {name}: {problem_id!r} differs",
                    "measure both on the same problems; --regrade brings answers up to date",
                )
        samples = theirs.samples(name)
        indices = {s.sample_index for s in samples if s.problem_id in set(result.problem_ids)}
        paired = assemble(name, result.problem_ids, samples, max(indices, default=-1) + 1 or 1)
        difference = paired_difference(
            result.correct_PK, paired.correct_PK, problem_ids=result.problem_ids
        )
        accuracy = paired.accuracy
        assert accuracy is not None  # `require_grades`
        ahead = np.sign(result.correct_PK.mean(axis=1) - paired.correct_PK.mean(axis=1))
        found[name] = {
            "difference": difference.as_dict(),
            "flexible_difference": _flexible(result, paired),
            **_of_scores(result, paired),
            "theirs": accuracy.as_dict(),
            "samples": paired.samples_per_problem,
            "problems_ahead": int((ahead > 0).sum()),
            "problems_behind": int((ahead < 0).sum()),
            "settings_that_differ": differing,
        }
    return found


def _flexible(ours: Evaluation, theirs: Evaluation) -> dict[str, float] | None:
    """The difference by the flexible rule; None unless both have it."""
    ours_PK, theirs_PK = ours.flexible_PK, theirs.flexible_PK
    if ours_PK is None or theirs_PK is None:
        return None
    return paired_difference(ours_PK, theirs_PK, problem_ids=ours.problem_ids).as_dict()


def _of_scores(ours: Evaluation, theirs: Evaluation) -> dict[str, dict[str, float]]:
    """The difference of mean scores; empty unless both have numbers of a grader."""
    ours_PK, theirs_PK = ours.score_PK, theirs.score_PK
    if ours_PK is None or theirs_PK is None:
        return {}
    found = paired_score_difference(ours_PK, theirs_PK, problem_ids=ours.problem_ids)
    return {"score_difference": found.as_dict()}


def difference_of(entry: Mapping[str, Any]) -> Estimate:
    """The difference in an entry of `against`."""
    return Estimate(**entry["difference"])
