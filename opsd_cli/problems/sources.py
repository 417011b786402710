"""Loading of the three splits of a run, and of benchmarks.

A source is `embedded`, a name from the catalog, a hub id, a YAML description or a file. Training
problems need what the grader reads, mostly a gold answer, and what the teacher's reference is made
of, by default a worked solution; GRPO does without solutions on a set that has none. Validation and
test problems need only the former.

Hold-out: if no validation or test source is named, the problems are taken out of the training set
by a hash of their ids, so that the same rows are held out whatever the seed, the order of the file
or the limit. Contamination: a training problem that is also in the validation or test set is left
out and counted; an overlap between validation and test is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import DataError
from opsd_cli.grading import traits_of
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.problems.anomalies import how_to_list
from opsd_cli.problems.arithmetic import SIZES, Split, chains
from opsd_cli.problems.catalog import TRAINING, catalogued, describe
from opsd_cli.problems.few_shot import digest, with_examples
from opsd_cli.problems.fields import Reading
from opsd_cli.problems.files import READERS, load_file, open_file, problems_of
from opsd_cli.problems.graded_columns import refuse_columns
from opsd_cli.problems.hold_out import first, hold_out, without
from opsd_cli.problems.same_questions import refuse_shared, shared_notes
from opsd_cli.problems.set_description import SetDescription
from opsd_cli.problems.shown_options import with_options
from opsd_cli.problems.system_turns import with_system_note
from opsd_cli.prompts.references import reads_solutions

#: Benchmarks that are the config's own splits.
OWN_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Splits:
    """The problems of a run.

    Attributes:
        notes: sentences about how the splits were made.
        warnings: sentences about probable faults in the data.
        few_shot: the worked examples before each question; the training problems lack them.
        watch: problems of another kind, which are measured and decide nothing; None without.
        data_notes: those of `notes` that do not depend on how many problems are held out.
    """

    train: ProblemSet
    validation: ProblemSet
    test: ProblemSet
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    data_notes: tuple[str, ...] = ()
    few_shot: tuple[Problem, ...] = ()
    watch: ProblemSet | None = None

    def named(self) -> dict[str, ProblemSet]:
        """The splits by name; "watch" is among them where there is one."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return found if self.watch is None else {**found, "watch": self.watch}

    def provenance(self) -> dict[str, dict[str, str | int | None]]:
        """Name, revision, size and digest of each split, for a run's environment.json."""
        more: dict[str, dict[str, str | int | None]] = {}
        if self.few_shot:
            more["few_shot"] = {"problems": len(self.few_shot), "digest": digest(self.few_shot)}
        return {
            split: {
                "name": each.name,
                "revision": each.revision,
                "problems": len(each.problems),
                "digest": each.digest(),
            }
            for split, each in self.named().items()
        } | more


@cache
def embedded(split: Split, limit: int | None = None) -> ProblemSet:
    """The embedded problems of a split, the same for every run seed.

    Kept, since the plan of a comparison loads them for each of its arms.
    """
    size = min(SIZES[split], limit or SIZES[split])
    problems = tuple(chain.problem() for chain in islice(chains(split), size))
    return ProblemSet(f"embedded {split}", problems, LoadReport(rows=size, used=size))


def load_splits(config: Config) -> Splits:
    """Load the train, validation and test problems of a config.

    Raises:
        DataError: no training data is named, a source has no usable row, too few problems to hold
            out, or validation and test overlap.
    """
    data = config.data
    if data.train is None:
        raise DataError(
            "no training problems: data.train is not set",
            "give a file with --set data.train=problems.jsonl, or a set that `opsd data` lists",
        )
    held_notes: list[str] = []
    otherwise = EMBEDDED if data.train == EMBEDDED else None
    needed = _needs_solutions(config)
    # The hold-out must not depend on the limit, so it is chosen before the limit applies.
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
    train, removed = without(train, *filter(None, (validation, test)))
    if wanted:
        train, held = hold_out(train, wanted)
        validation = validation or held["validation"]
        test = test or held["test"]
        train = first(train, data.limit)
        held_out = " and ".join(f"{len(s.problems)} for {name}" for name, s in held.items())
        held_notes.append(
            f"held out of {data.train}: {held_out}; {len(train.problems)} left to train on"
        )
    assert validation is not None and test is not None
    read = (train, validation, test)
    data_notes = (*(note for each in read for note in _notes(each)), *removed)
    refuse_shared(
        validation,
        test,
        "remove them from one: what chooses the checkpoint must not be what is reported",
    )
    sets = told_apart({"train": train, "validation": validation, "test": test})
    splits = Splits(
        sets["train"],
        sets["validation"],
        sets["test"],
        notes=(*held_notes, *data_notes),
        warnings=tuple(warning for each in read for warning in each.notes),
        data_notes=data_notes,
    )
    return with_examples(config, _with_watch(config, splits))


def _with_watch(config: Config, splits: Splits) -> Splits:
    """The splits with the watch set of the config, if it has one."""
    data = config.data
    watch = _load_optional(data.watch, "test", config, data.watch_problems)
    if watch is None:
        return splits
    notes = (*_notes(watch), *shared_notes(watch, splits.named()))
    return replace(
        splits,
        watch=told_apart({**splits.named(), "watch": watch})["watch"],
        notes=(*splits.notes, *notes),
        warnings=(*splits.warnings, *watch.notes),
        data_notes=(*splits.data_notes, *notes),
    )


def _needs_solutions(config: Config) -> bool | None:
    """Whether training problems need solutions; None if they do where the set has any.

    The last is for methods that read none, so that in a comparison they have the same problems.
    """
    if methods.get(config).reads_solutions():
        return True
    teachers = [config.teacher] + [
        config.teacher.model_copy(update={"reference": reference})
        for reference in config.data.usable_for
    ]
    return None if any(map(reads_solutions, teachers)) else False


def _notes(read: ProblemSet) -> list[str]:
    """Sentences about the rows that were left out, and the caution of a known set."""
    notes = [f"{read.name}: {read.report.sentence()}"] if read.report.remarkable else []
    return [*notes, f"{read.name}: {read.caution}"] if read.caution else notes


def told_apart(sets: Mapping[str, ProblemSet]) -> dict[str, ProblemSet]:
    """The same sets with problem keys that are unique across all of them.

    Files of the same name in two folders may use the same ids. The problems of the later set then
    get the set's role in `sets` added to their source.
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
    """Load the problems of a benchmark: a catalogued name, a hub id, a YAML description or a file.

    `test` and `validation` are the config's own splits, held out as in training.

    Args:
        limit: maximum number of problems.

    Raises:
        DataError: there is no such benchmark, it cannot be read, or no row has an answer.
    """
    if name == EMBEDDED:
        refuse_columns(traits_of(config.grading).columns)
        return embedded("test", limit)
    if name in OWN_SPLITS and not Path(name).is_file():
        if config.data.train is None:
            raise DataError(
                f"{name} is the {name} split of a run, and no training data is named",
                "give the run (--adapter RUN), or data.train as for training",
            )
        splits = load_splits(config)
        return first(splits.test if name == "test" else splits.validation, limit)
    return _load(name, "test", config, need_solution=False, limit=limit)


def load_one_set(source: str, config: Config, count: int | None = None) -> ProblemSet:
    """The first `count` problems of a set alone, as of training; solutions may lack.

    Raises:
        DataError: it cannot be read, or no row is usable.
    """
    needed = False if _needs_solutions(config) is False else None
    return _load(source, "train", config, need_solution=needed, limit=count)


def load_examples(source: str, config: Config, count: int | None) -> ProblemSet:
    """The first `count` problems of a set, or all, as worked examples, which need no more columns.

    Raises: as `load_one_set`.
    """
    return _read(source, "train", config, Reading.of(config, "train", None, count).of_examples)


def _load(
    source: str, split: Split, config: Config, *, need_solution: bool | None, limit: int | None
) -> ProblemSet:
    return _read(source, split, config, Reading.of(config, split, need_solution, limit))


def _read(source: str, split: Split, config: Config, reading: Reading) -> ProblemSet:
    if source == EMBEDDED:
        refuse_columns(reading.fields)
        return embedded(split, reading.limit)
    columns = {name: column for name, column in config.data.columns.model_dump().items() if column}
    description = describe(source, split)
    if description is None:
        loaded = load_file(Path(source), columns, **vars(reading))
        loaded = replace(loaded, notes=_warned(loaded.name, source, loaded.report))
        return with_system_note(with_options(loaded, config), config)
    own = {name: column for name, column in description.columns.model_dump().items() if column}
    loaded = _load_described(source, split, description, own or columns, reading)
    return with_system_note(with_options(loaded, config), config)


def _load_described(
    source: str,
    split: Split,
    description: SetDescription,
    columns: dict[str, str],
    reading: Reading,
) -> ProblemSet:
    known = catalogued(description)
    name = known or (Path(source).stem if source.endswith((".yaml", ".yml")) else source)
    if reading.need_solution and known is not None and description.columns.solution is None:
        others = ", ".join(n for n, entry in TRAINING.items() if entry.columns.solution)
        raise DataError(
            f"{name} has answers but no worked solutions: a teacher would have nothing to study",
            "let it study the answer or the model's own right rollouts (--set "
            "teacher.reference=answer or sibling), or train with --method grpo; sets with "
            f"solutions: {others}",
        )
    revision = None
    path = Path(description.data).expanduser()
    if path.suffix.lower() in READERS:
        table = open_file(path)
    else:
        from opsd_cli.problems.hub_sets import open_hub_set

        table, revision = open_hub_set(description, split)
    loaded = problems_of(
        table,
        name,
        columns,
        **vars(reading.described(description)),
    )
    notes = _warned(name, source, loaded.report)
    expected = description.problems
    if expected is not None and not loaded.report.limited and len(loaded.problems) != expected:
        notes += (
            f"{name} gave {len(loaded.problems)} problems where {expected} were expected: "
            "it has changed, and figures on it do not compare",
        )
    terms = f" Licence: {description.licence}." if description.licence else ""
    return replace(
        loaded,
        name=name,
        revision=revision,
        prompt=description.prompt,
        caution=(description.caution + terms).strip(),
        notes=notes,
    )


def _warned(name: str, source: str, report: LoadReport) -> tuple[str, ...]:
    """One warning of all probable faults of a set; none if there are none."""
    faults = "; ".join(report.warnings())
    return (f"{name}: {faults}. {how_to_list(source)}",) if faults else ()


def _load_optional(
    source: str | None, split: Split, config: Config, limit: int
) -> ProblemSet | None:
    if source is None:
        return None
    return _load(source, split, config, need_solution=False, limit=limit)
