"""Parts of a training set: what is held out of it, and what is left.

What is held out is chosen by a hash of the ids, so that it does not depend on the seed, the order
of the file or the limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from opsd_cli.errors import DataError
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.same_questions import divided

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
        taken[name] = subset(train, f"{train.name} ({name})", by_digest[start : start + count])
        start += count
    held = {p.id for held_set in taken.values() for p in held_set.problems}
    left = [p for p in train.problems if p.id not in held]
    return replace(train, problems=tuple(left)), taken


def first(train: ProblemSet, limit: int | None) -> ProblemSet:
    """The training set reduced to its first `limit` problems."""
    if limit is None or limit >= len(train.problems):
        return train
    return replace(train, problems=train.problems[:limit])


def subset(whole: ProblemSet, name: str, problems: Iterable[Problem]) -> ProblemSet:
    chosen = tuple(problems)
    return ProblemSet(name, chosen, LoadReport(rows=len(chosen), used=len(chosen)))


def without(train: ProblemSet, *others: ProblemSet) -> tuple[ProblemSet, tuple[str, ...]]:
    """The training set without the questions of other sets, and a note if any were removed."""
    kept, removed = divided(train.problems, (p for other in others for p in other.problems))
    if not removed:
        return train, ()
    if not kept:
        raise DataError(
            f"every problem of {train.name} is in {' or '.join(other.name for other in others)}",
            "train on other problems than those that are measured",
        )
    names = " or ".join(dict.fromkeys(other.name for other in others))
    return replace(train, problems=kept), (
        f"{train.name}: {len(removed):,} left out, as {names} has them too",
    )
