"""Golden pairs by cause: mistakes of other graders and of earlier versions, in new notations."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from opsd_cli.grading.mathematics import MathGrader

DATA = Path(__file__).parents[2] / "data"
#: Generous, so that a busy machine changes no status.
DEADLINE = 120.0


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def by_cause() -> dict[str, list[dict]]:
    causes = defaultdict(list)
    for row in read("grading_causes.jsonl"):
        causes[row["cause"]].append(row)
    return dict(causes)


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(DEADLINE, workers=1) as made:
        yield made


def mistakes(grader: MathGrader, rows: list[dict]) -> tuple[list[tuple], list[tuple]]:
    """The (gold, prediction) of false positives and of false negatives."""
    grades = grader.grade_many([(row["gold"], row["prediction"]) for row in rows])
    found = [
        (row["correct"], grade.correct, (row["gold"], row["prediction"]))
        for row, grade in zip(rows, grades, strict=True)
    ]
    false_positives = [pair for correct, accepted, pair in found if accepted > correct]
    return false_positives, [pair for correct, accepted, pair in found if accepted < correct]


@pytest.mark.parametrize("cause", sorted(by_cause()))
def test_golden_pairs_by_cause(grader: MathGrader, cause: str) -> None:
    false_positives, false_negatives = mistakes(grader, by_cause()[cause])
    assert false_positives == []
    assert false_negatives == []


def test_golden_pairs_of_the_judged_suites(grader: MathGrader) -> None:
    """At most one wrong answer in 130 is accepted, and 3% of 270 correct ones are refused."""
    rows = read("grading_suites.jsonl")
    false_positives, false_negatives = mistakes(grader, rows)
    assert len(false_positives) <= 1, false_positives
    assert len(false_negatives) <= 0.03 * sum(row["correct"] for row in rows), false_negatives
