"""From a config to the three splits of a run, and from a name to a benchmark.

A source is `embedded`, a name from the catalog, a hub id, a YAML description or a file. Training
needs an answer (the grader's) and a reference solution (the teacher's context); GRPO alone does
without solutions, on a set that has none. Validation and test need only the answer.

Where validation or test problems are not named, they are held out of the training set by a digest
of each problem's id: the same rows every time, whatever the seed, the order of the file, or the
limit. A training problem that is also in a validation or test set is left out and counted;
validation and test sets that share one are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from opsd_cli import methods
from opsd_cli.config.schema import EMBEDDED, Config
from opsd_cli.errors import DataError
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.arithmetic import SIZES, Split, chains
from opsd_cli.problems.catalog import TRAINING, catalogued, describe
from opsd_cli.problems.described import SetDescription
from opsd_cli.problems.files import READERS, load_file, open_file, problems_of
from opsd_cli.problems.selection import Selection

#: Share of a training file held out for each of validation and test.
HELD_OUT = 0.1


@dataclass(frozen=True)
class Splits:
    """The problems of a run; `notes` are sentences about how they came to be, `warnings` about
    what is probably wrong with them."""

    train: ProblemSet
    validation: ProblemSet
    test: ProblemSet
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def provenance(self) -> dict[str, dict[str, str | int | None]]:
        """What each split was, for a run's environment.json."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            split: {
                "name": each.name,
                "revision": each.revision,
                "problems": len(each.problems),
                "digest": each.digest(),
            }
            for split, each in named.items()
        }


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
            "give a file with --set data.train=problems.jsonl, or a set that `opsd data` lists",
        )
    notes: list[str] = []
    warnings: list[str] = []
    otherwise = EMBEDDED if data.train == EMBEDDED else None
    needed = True if methods.get(config).needs.solutions else None
    # What is held out must not depend on the limit, so it is chosen before the limit applies.
    named = all(given or otherwise for given in (data.validation, data.test))
    at_once = data.limit if named else None
    train = _load(data.train, "train", config, need_solution=needed, limit=at_once)
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
    train, removed = _without(train, *filter(None, (validation, test)))
    if wanted:
        train, held = _hold_out(train, wanted)
        validation = validation or held["validation"]
        test = test or held["test"]
        train = _first(train, data.limit)
        held_out = " and ".join(f"{len(s.problems)} for {name}" for name, s in held.items())
        notes.append(
            f"held out of {data.train}: {held_out}; {len(train.problems)} left to train on"
        )
    assert validation is not None and test is not None
    for loaded in (train, validation, test):
        if loaded.report.remarkable:
            notes.append(f"{loaded.name}: {loaded.report.sentence()}")
        warnings += loaded.notes
        if loaded.caution:
            notes.append(f"{loaded.name}: {loaded.caution}")
    _refuse_overlap(validation, test)
    sets = told_apart({"train": train, "validation": validation, "test": test})
    return Splits(**sets, notes=(*notes, *removed), warnings=tuple(warnings))


def told_apart(sets: Mapping[str, ProblemSet]) -> dict[str, ProblemSet]:
    """The same sets, no two with a problem of the same set and id.

    Files of one name in two folders may number their problems alike; the later set's problems then
    name what it is here (its key) as well.
    """
    seen: set[tuple[str, str]] = set()
    apart: dict[str, ProblemSet] = {}
    for role, each in sets.items():
        problems = each.problems
        if any(problem.key in seen for problem in problems):
            problems = tuple(replace(p, source=f"{p.source} ({role})") for p in problems)
        seen.update(problem.key for problem in problems)
        apart[role] = replace(each, problems=problems)
    return apart


def load_benchmark(name: str, config: Config, limit: int | None = None) -> ProblemSet:
    """The problems of a catalogued benchmark, a hub id, a YAML description or a file.

    Answers are required.

    Raises:
        DataError: there is no such benchmark, it cannot be had, or has no usable rows.
    """
    if name == EMBEDDED:
        return embedded("test", limit)
    return _load(name, "test", config, need_solution=False, limit=limit)


def _load(
    source: str, split: Split, config: Config, *, need_solution: bool | None, limit: int | None
) -> ProblemSet:
    if source == EMBEDDED:
        return embedded(split, limit)
    columns = {name: column for name, column in config.data.columns.model_dump().items() if column}
    described = describe(source, split)
    if described is None:
        return load_file(
            Path(source), columns, need_solution=need_solution, need_answer=True, limit=limit
        )
    own = {name: column for name, column in described.columns.model_dump().items() if column}
    return _load_described(source, split, described, own or columns, need_solution, limit)


def _load_described(
    source: str,
    split: Split,
    described: SetDescription,
    columns: dict[str, str],
    need_solution: bool | None,
    limit: int | None,
) -> ProblemSet:
    known = catalogued(described)
    name = known or (Path(source).stem if source.endswith((".yaml", ".yml")) else source)
    if need_solution and known is not None and described.columns.solution is None:
        others = ", ".join(n for n, entry in TRAINING.items() if entry.columns.solution)
        raise DataError(
            f"{name} has answers but no worked solutions: a teacher would have nothing to study",
            f"train on it with --method grpo; sets with solutions: {others}",
        )
    revision = None
    path = Path(described.data).expanduser()
    if path.suffix.lower() in READERS:
        table = open_file(path)
    else:
        from opsd_cli.problems.hub_sets import open_hub_set

        table, revision = open_hub_set(described, split)
    loaded = problems_of(
        table,
        name,
        columns,
        need_solution=need_solution,
        need_answer=True,
        limit=limit,
        selection=Selection.of(described),
    )
    notes = tuple(f"{name}: {warning}" for warning in loaded.report.warnings())
    expected = described.problems
    if expected is not None and not loaded.report.limited and len(loaded.problems) != expected:
        notes += (
            f"{name} gave {len(loaded.problems)} problems where {expected} were expected: "
            "it has changed, and figures on it do not compare",
        )
    terms = f" Licence: {described.licence}." if described.licence else ""
    return replace(
        loaded,
        name=name,
        revision=revision,
        prompt=described.prompt,
        caution=(described.caution + terms).strip(),
        notes=notes,
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


def _first(train: ProblemSet, limit: int | None) -> ProblemSet:
    """The first so many training problems."""
    if limit is None or limit >= len(train.problems):
        return train
    return replace(train, problems=train.problems[:limit])


def _subset(whole: ProblemSet, name: str, problems: Iterable[Problem]) -> ProblemSet:
    chosen = tuple(problems)
    return ProblemSet(name, chosen, LoadReport(rows=len(chosen), used=len(chosen)))


def _without(train: ProblemSet, *others: ProblemSet) -> tuple[ProblemSet, tuple[str, ...]]:
    """The training set without the questions of other sets, and a sentence where there were any."""
    taken = {_worded(problem) for other in others for problem in other.problems}
    kept = tuple(problem for problem in train.problems if _worded(problem) not in taken)
    removed = len(train.problems) - len(kept)
    if not removed:
        return train, ()
    if not kept:
        raise DataError(
            f"every problem of {train.name} is in {' or '.join(other.name for other in others)}",
            "train on other problems than those that are measured",
        )
    names = " or ".join(dict.fromkeys(other.name for other in others))
    return replace(train, problems=kept), (
        f"{train.name}: {removed:,} left out, as {names} has them too",
    )


def _worded(problem: Problem) -> str:
    """A question whatever its line breaks, spacing and case."""
    return " ".join(problem.question.split()).casefold()


def _refuse_overlap(one: ProblemSet, other: ProblemSet) -> None:
    questions = {_worded(problem) for problem in one.problems}
    shared = [problem for problem in other.problems if _worded(problem) in questions]
    if shared:
        raise DataError(
            f"{one.name} and {other.name} share {len(shared)} questions, "
            f"the first is {shared[0].question[:60]!r}",
            "remove them from one: what chooses the checkpoint must not be what is reported",
        )
