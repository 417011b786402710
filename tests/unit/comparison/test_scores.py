"""Mean scores of arms and evaluations whose grader gives numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from opsd_cli.comparison.choices import choices
from opsd_cli.comparison.scores import score_difference
from opsd_cli.comparison.summary import summarise
from opsd_cli.errors import UsageError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.reports.choices_section import choices_section
from opsd_cli.reports.comparison_report import differences_section
from opsd_cli.statistics import paired_difference, paired_score_difference
from tests.support.varied_runs import varied_runs

FASTER = "opsd divergence.kind=reverse_kl"


def give_scores(run: Path, add: float) -> None:
    """Scores of half of what is right, and so much more; accuracy is not changed."""
    log = run / "evaluations.jsonl"
    rows = [
        row | {"scores": [min(1.0, 0.5 * right + add) for right in row["correct"]]}
        for row in read_rows(log)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_scores_of_arms_are_compared_beside_accuracy(tmp_path: Path) -> None:
    groups, variation = varied_runs(tmp_path, [0, 1])
    found = choices(groups, variation)
    assert found is not None and "mean_score" not in found["arms"]["opsd"]
    assert score_difference(groups["opsd"], groups[FASTER]) is None
    for label, curves in groups.items():
        for curve in curves:
            give_scores(curve.directory, 0.1 if label == FASTER else 0.0)
    summary = summarise(groups, tmp_path, variation=variation, replicates=20)
    arms = summary["choices"]["arms"]
    difference = arms[FASTER]["difference"]
    assert difference["mean_score"]["value"] == pytest.approx(
        0.5 * difference["best"]["value"] + 0.1
    )
    assert arms["opsd"]["mean_score"]["value"] == pytest.approx(
        0.5 * arms["opsd"]["accuracy"]["best"]["value"]
    )
    assert summary["methods"]["opsd"]["mean_score"] == arms["opsd"]["mean_score"]
    one = next(d for d in summary["differences"] if (d["one"], d["other"]) == ("opsd", FASTER))
    assert one["mean_score"]["value"] == pytest.approx(-difference["mean_score"]["value"])
    assert "mean score" in choices_section(summary) and "mean score" in differences_section(summary)


def test_score_difference_without_a_common_seed_is_none(tmp_path: Path) -> None:
    groups, _ = varied_runs(tmp_path, [0, 1])
    curves = groups["opsd"]
    for curve in curves:
        give_scores(curve.directory, 0.0)
    assert score_difference(curves[:1], curves[1:]) is None


def test_paired_score_difference_of_verdicts_is_that_of_accuracy() -> None:
    random = np.random.default_rng(0)
    one, other = (random.integers(0, 2, (20, 3)) for _ in range(2))
    assert paired_score_difference(one, other) == paired_difference(one, other)
    halves = paired_score_difference(0.5 * one, 0.5 * other)
    assert halves.value == pytest.approx(0.5 * paired_difference(one, other).value)
    with pytest.raises(UsageError, match="cannot be paired"):
        paired_score_difference(one[:3], other)
    with pytest.raises(UsageError, match="from 0 to 1"):
        paired_score_difference(2 * one, other)
