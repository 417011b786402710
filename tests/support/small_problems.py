"""Small problem sets: sums "N + 1" with their answers, which `fakes.FakePolicy` can solve."""

from __future__ import annotations

from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.sources import Splits


def problem_set(name: str, numbers: range) -> ProblemSet:
    """One problem a number N: the question is "N + 1", the id "name-N"."""
    problems = tuple(
        Problem(f"{name}-{n}", f"{n} + 1", f"{n} + 1 = {n + 1}", str(n + 1), name) for n in numbers
    )
    return ProblemSet(name, problems, LoadReport(rows=len(problems), used=len(problems)))


#: 40 problems to train on, 20 to validate on, 30 to test on; no two have a number in common.
SPLITS = Splits(
    problem_set("train", range(40)),
    problem_set("validation", range(40, 60)),
    problem_set("test", range(60, 90)),
)
