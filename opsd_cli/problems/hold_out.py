"""Holding validation and test problems out of a training set, by a hash of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from opsd_cli.errors import DataError
from opsd_cli.problems import LoadReport, Problem, ProblemSet

#: Largest share of a training set that is held out for each of validation and test.
HOLD_OUT_SHARE = 0.1


def hold_out(train: ProblemSet, wanted: dict[str, int]) -> tuple[ProblemSet, dict[str, ProblemSet]]:
    """Hold out sets of the given sizes, each at most `HOLD_OUT_SHARE` of the training set."""
    by_digest = sorted(train.problems, key=lambda p: hashlib.sha256(p.id.encode()).digest())
    taken: dict[str, ProblemSet] = {}
    start = 0
    for name, size in wanted.items():
        count = min(size, int(len(by_digest) * HOLD_OUT_SHARE))
        if count == 0:
            raise DataError(
                f"{train.name} has {len(by_digest)} usable problems, "
                f"too few to hold out a {name} set",
                f"name one with --set data.{name}=FILE, "
                f"or bring at least {int(1 / HOLD_OUT_SHARE)} problems",
            )
        taken[name] = subset_of(train, f"{train.name} ({name})", by_digest[start : start + count])
        start += count
    held = {p.id for held_set in taken.values() for p in held_set.problems}
    left = [p for p in train.problems if p.id not in held]
    return replace(train, problems=tuple(left)), taken


def subset_of(whole: ProblemSet, name: str, problems: Iterable[Problem]) -> ProblemSet:
    chosen = tuple(problems)
    return ProblemSet(name, chosen, LoadReport(rows=len(chosen), used=len(chosen)))
