"""From a config to the three splits of a run, and from a name to a benchmark.

Training needs a reference solution (the teacher's context) and an answer (the grader's); validation
and test need only the answer. Where a file comes without validation or test problems, they are held
out of the training file by a digest of each problem's id: the same rows every time, whatever the
seed, the order of the file, or the limit. Splits that share a question are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from opsd_cli.config import EMBEDDED, Config
from opsd_cli.errors import DataError
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.arithmetic import SIZES, Split, chains
from opsd_cli.problems.files import load_file

#: Share of a training file held out for each of validation and test.
HELD_OUT = 0.1


@dataclass(frozen=True)
class Splits:
    """The problems of a run; `notes` are sentences about how they came to be."""

    train: ProblemSet
    validation: ProblemSet
    test: ProblemSet
    notes: tuple[str, ...] = ()


def embedded(split: Split, limit: int | None = None) -> ProblemSet:
    """The embedded problems of a split; the same ones for every seed."""
    size = min(SIZES[split], limit or SIZES[split])
    problems = tuple(chain.problem() for chain in islice(chains(split), size))
    return ProblemSet(f"embedded {split}", problems, LoadReport(rows=size, used=size))


def load_splits(config: Config) -> Splits:
    """The train, validation and test problems that a config asks for.

    Raises:
        DataError: no training data named, nothing usable in a file, or splits that overlap.
    """
    data = config.data
    if data.train is None:
        raise DataError(
            "no training problems: data.train is not set",
            "give a file with --set data.train=problems.jsonl",
        )
    notes: list[str] = []
    otherwise = EMBEDDED if data.train == EMBEDDED else None
    train = _load(data.train, "train", config, need_solution=True, limit=data.limit)
    validation = _load_optional(
        data.validation or otherwise, "validation", config, data.validation_problems
    )
    test = _load_optional(data.test or otherwise, "test", config, data.test_problems)
    wanted = {
        name: size
        for name, given, size in (
            ("validation", validation, data.validation_problems),
            ("test", test, data.test_problems),
        )
        if given is None
    }
    if wanted:
        train, held = _hold_out(train, wanted)
        validation = validation or held["validation"]
        test = test or held["test"]
        named = " and ".join(f"{len(s.problems)} for {name}" for name, s in held.items())
        notes.append(f"held out of {data.train}: {named}; {len(train.problems)} left to train on")
    assert validation is not None and test is not None
    for loaded in (train, validation, test):
        if loaded.report.skipped() or loaded.report.derived_answers:
            notes.append(f"{loaded.name}: {loaded.report.sentence()}")
    _refuse_overlap(train, validation)
    _refuse_overlap(train, test)
    _refuse_overlap(validation, test)
    return Splits(train, validation, test, tuple(notes))


def load_benchmark(name: str, config: Config, limit: int | None = None) -> ProblemSet:
    """The problems of a named benchmark or of a file, answers required.

    Raises:
        DataError: neither a known name nor a readable file with usable rows.
    """
    if name == EMBEDDED:
        return embedded("test", limit)
    return _load(name, "test", config, need_solution=False, limit=limit)


def _load(
    source: str, split: Split, config: Config, *, need_solution: bool, limit: int | None
) -> ProblemSet:
    if source == EMBEDDED:
        return embedded(split, limit)
    columns = {name: column for name, column in config.data.columns.model_dump().items() if column}
    return load_file(
        Path(source), columns, need_solution=need_solution, need_answer=True, limit=limit
    )


def _load_optional(
    source: str | None, split: Split, config: Config, limit: int
) -> ProblemSet | None:
    if source is None:
        return None
    return _load(source, split, config, need_solution=False, limit=limit)


def _hold_out(
    train: ProblemSet, wanted: dict[str, int]
) -> tuple[ProblemSet, dict[str, ProblemSet]]:
    """Split off the wanted sets, each at most `HELD_OUT` of the whole and its own size."""
    by_digest = sorted(train.problems, key=lambda p: hashlib.sha256(p.id.encode()).digest())
    taken: dict[str, ProblemSet] = {}
    start = 0
    for name, size in wanted.items():
        count = min(size, int(len(by_digest) * HELD_OUT))
        if count == 0:
            raise DataError(
                f"{train.name} has {len(by_digest)} usable problems, "
                f"too few to hold out a {name} set",
                f"name one with --set data.{name}=FILE, "
                f"or bring at least {int(1 / HELD_OUT)} problems",
            )
        taken[name] = _subset(train, f"{train.name} ({name})", by_digest[start : start + count])
        start += count
    held = {p.id for held_set in taken.values() for p in held_set.problems}
    left = [p for p in train.problems if p.id not in held]
    return replace(train, problems=tuple(left)), taken


def _subset(whole: ProblemSet, name: str, problems: Iterable[Problem]) -> ProblemSet:
    chosen = tuple(problems)
    return ProblemSet(name, chosen, LoadReport(rows=len(chosen), used=len(chosen)))


def _refuse_overlap(one: ProblemSet, other: ProblemSet) -> None:
    questions = {problem.question for problem in one.problems}
    shared = [problem for problem in other.problems if problem.question in questions]
    if shared:
        raise DataError(
            f"{one.name} and {other.name} share {len(shared)} questions, "
            f"the first is {shared[0].question[:60]!r}",
            "remove them from one, so that accuracy is measured on unseen problems",
        )
