"""An evaluation's request: the directory to resume, benchmarks, problem and sample counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd_cli.config.schema import Config
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import DataError, UsageError
from opsd_cli.evaluation.directory import EvaluationDirectory
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.recommended_sampling import with_recommended
from opsd_cli.grading import check_grader
from opsd_cli.loading import with_absolute_adapter
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.graded_columns import needs_answer
from opsd_cli.problems.sources import load_benchmark, told_apart
from opsd_cli.tracking.listener import Messages
from opsd_cli.training.run_directory import refuse_used


@dataclass(frozen=True)
class EvaluationSession:
    """One evaluation, prepared.

    Attributes:
        config: `evaluation.samples` and the sampling numbers are final.
        sets: benchmark -> its problems, in the order of the report.
        sampling_from: where the sampling numbers come from, in words.
        limit: at most so many problems of each set; None for all.
        directory: the directory to resume; None for a new evaluation.
        description: as `describe` gives it; empty until `ready_to_draw`.
    """

    config: Config
    sets: dict[str, ProblemSet]
    sampling_from: str
    limit: int | None
    directory: EvaluationDirectory | None
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> dict[str, Sequence[Problem]]:
        """Benchmark -> its problems."""
        return {name: problems.problems for name, problems in self.sets.items()}

    def plan(self) -> dict[str, dict[str, Any]]:
        """For each benchmark: problems, completions, and the most tokens that are generated.

        Completions that the directory holds already are counted, and cost no more tokens.
        """
        samples = self.config.evaluation.samples
        longest = evaluation_sampling(self.config).max_new_tokens
        found: dict[str, dict[str, Any]] = {}
        for name, problems in self.sets.items():
            completions = len(problems.problems) * samples
            kept = len(self.directory.samples(name)) if self.directory is not None else 0
            found[name] = {
                "problems": len(problems.problems),
                "completions": completions,
                "completions_kept": kept,
                "generated_tokens_at_most": max(0, completions - kept) * longest,
                "revision": problems.revision,
            }
        return found


def directory_to_continue(
    path: Path | None, again: bool, against: Path | None
) -> EvaluationDirectory | None:
    """The directory of the evaluation that is resumed or regraded; None for a new evaluation.

    Args:
        path: of this evaluation; None only for a new one.
        again: True to resume or regrade.
        against: another evaluation's directory, which has to exist.

    Raises:
        RunError: there is no evaluation to continue or to pair with, or `path` is not free for a
            new one.
    """
    if against is not None:
        EvaluationDirectory.open(against)
    if path is None:
        return None
    if not again:
        refuse_used(path)
        return None
    directory = EvaluationDirectory.open(path)
    directory.require_extent()
    return directory


def with_samples(config: Config, samples: int) -> Config:
    """The config with so many samples per problem."""
    return _evaluating(config, samples=samples)


def without_analyses(config: Config) -> Config:
    """The config as an evaluation loads its model: no teacher is asked, and so none of its analyses
    (`teacher.reason_first`), which a divided base could not sample."""
    teacher = config.teacher.model_copy(update={"reason_first": False})
    return config.model_copy(update={"teacher": teacher})


def _evaluating(config: Config, **changes: Any) -> Config:
    """The config with other values in its `evaluation` section."""
    evaluation = config.evaluation.model_copy(update=changes)
    return config.model_copy(update={"evaluation": evaluation})


def prepare(
    config: Config,
    directory: EvaluationDirectory | None,
    benchmarks: Sequence[str],
    limit: int | None,
    messages: Messages,
    *,
    regrading: bool = False,
    given: Mapping[str, ProblemSet] | None = None,
    temperature: float | None = None,
) -> EvaluationSession:
    """Read the problems and determine benchmarks, problem and sample counts.

    Args:
        directory: the evaluation to resume; its benchmarks, limit and samples are kept or grow.
        benchmarks: names, files or keys of `given`; by default the directory's, else
            `default_benchmark`.
        limit: at most so many problems of each.
        given: loaded problems, by benchmark.
        temperature: in place of the recommended one.

    Raises:
        UsageError: a benchmark is named twice, or fewer problems or samples than the
            directory holds.
        DataError: a benchmark cannot be read.
        ConfigError, ModelError: recommended sampling numbers are not available.
        ConfigError: the grader cannot be used.
    """
    check_grader(config.grading)
    config = with_absolute_adapter(config)  # so that it can be resumed from anywhere
    if regrading and directory is not None:
        source = directory.description["sampling_from"]
    else:
        config, source = _with_sampling(config, temperature, messages)
    if directory is None and not benchmarks:
        benchmarks = [default_benchmark(config)]
        if benchmarks != [EMBEDDED]:
            messages.note(
                f"measuring on {benchmarks[0]}, the run's own {benchmarks[0]} split of "
                f"{config.data.test or config.data.train} (--benchmark names others)"
            )
    names, limit = _extent(benchmarks, limit, directory, config.evaluation.samples)
    loaded = given or {}
    for name, each in loaded.items():
        _require_answers(name, each, config)
    sets = told_apart(
        {
            name: _first(loaded[name], limit)
            if name in loaded
            else load_benchmark(name, config, limit)
            for name in names
        }
    )
    _tell_of(sets.values(), messages)
    return EvaluationSession(config, sets, source, limit, directory)


def _tell_of(sets: Iterable[ProblemSet], messages: Messages) -> None:
    """What is worth knowing of the problems that were read."""
    for problems in sets:
        if problems.report.remarkable:
            messages.note(f"{problems.name}: {problems.report.sentence()}")
        if problems.caution:
            messages.note(f"{problems.name}: {problems.caution}")
        for note in problems.notes:
            messages.warn(note)


def _with_sampling(
    config: Config, temperature: float | None, messages: Messages
) -> tuple[Config, str]:
    """As `with_recommended`, with a temperature that takes the place of the recommended one.

    The numbers are stated from there on, so that a resumed evaluation has the same.
    """
    found, source = with_recommended(config, messages)
    if temperature is None or config.evaluation.sampling != "recommended":
        return found, source
    messages.note(f"at temperature {temperature:g} instead, as given")
    return with_recommended(
        _evaluating(found, temperature=temperature, sampling="stated"), messages
    )


def default_benchmark(config: Config) -> str:
    """What a config is measured on where no benchmark is named.

    Returns:
        `test`, its own test split, for a config with training data; else the embedded set.

    Raises:
        UsageError: the config names another model, and no data.
    """
    if config.data.train not in (None, EMBEDDED):
        return "test"
    if config.model != EMBEDDED:
        raise UsageError(
            f"nothing to measure {config.model} on: --benchmark is missing",
            "name a benchmark (`opsd data` lists them) or a file of problems",
        )
    return EMBEDDED


def _require_answers(name: str, problems: ProblemSet, config: Config) -> None:
    """Raise `DataError` if a given problem lacks the answer that the grader reads."""
    for problem in problems.problems:
        if problem.answer is None and needs_answer(config):
            raise DataError(f"problem {problem.id!r} of {name} has no answer", "give it one")


def _first(problems: ProblemSet, limit: int | None) -> ProblemSet:
    return replace(problems, problems=problems.problems[:limit])


def _extent(
    asked: Sequence[str], limit: int | None, directory: EvaluationDirectory | None, samples: int
) -> tuple[list[str], int | None]:
    """The benchmarks and the limit: what is asked for, and at least what the directory holds."""
    if len(set(asked)) < len(asked):
        raise UsageError("the same --benchmark is named twice", "name each once")
    if directory is None:
        return list(asked), limit
    then = directory.description
    limit = limit or then["limit"]
    if limit is not None and then["limit"] is None:
        raise UsageError(
            f"{directory.path} holds whole benchmarks; --limit {limit} would be fewer",
            "leave out --limit, or give another --out",
        )
    for flag, now, before in (
        ("limit", limit, then["limit"]),
        ("samples", samples, then["samples"]),
    ):
        if before is not None and now is not None and now < before:
            raise UsageError(
                f"{directory.path} was made with --{flag} {before}, and --{flag} {now} is fewer",
                f"leave it out or raise it (results are never of fewer {flag} than are there), or "
                "give another --out",
            )
    return list(dict.fromkeys([*then["benchmarks"], *asked])), limit


def require_directory(out: str | Path | None, loaded: bool, needed: bool) -> None:
    """Raise `UsageError` where the arguments and an evaluation's directory do not fit.

    Args:
        loaded: a policy in memory is measured.
        needed: an earlier evaluation's directory is.
    """
    if out is None and needed:
        raise UsageError("resume, regrade and against need an evaluation's directory", "give out")
    if out is not None and loaded:
        raise UsageError(
            "an evaluation's directory describes a model by its files, which a policy in memory "
            "may have left behind",
            "leave out policy (a run's directory as config loads its best checkpoint), or out",
        )
