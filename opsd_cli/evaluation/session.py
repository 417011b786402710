"""An evaluation from its request to its results: the work of `opsd eval` and `opsd_cli.evaluate`.

    prepare -> ready_to_draw -> opened, measure -> conclude (opsd_cli.evaluation.result)
    prepare -> ready_to_regrade -> regrade, which concludes

`prepare` reads the problems and settles the extent (which benchmarks, how many problems and
samples); `describe` says what was measured, which decides whether samples may join those that a
directory holds already. Nothing here prints: callers pass a listener.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import AUTO
from opsd_cli.config.schema import EMBEDDED, Config
from opsd_cli.errors import Interrupted, UsageError
from opsd_cli.evaluation.description import describe
from opsd_cli.evaluation.directory import EvaluationDirectory
from opsd_cli.evaluation.evaluate import evaluate, evaluation_sampling, evaluation_view
from opsd_cli.evaluation.recommended_sampling import with_recommended
from opsd_cli.evaluation.result import EvaluationResult, conclude
from opsd_cli.evaluation.samples import Evaluation, assemble
from opsd_cli.grading import open_grader
from opsd_cli.loading import choose_backend, with_absolute_adapter
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.sources import load_benchmark, told_apart
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.tracking.listener import Listener, Messages

if TYPE_CHECKING:
    from backends.interface import Policy


@dataclass(frozen=True)
class Session:
    """One evaluation, prepared.

    Attributes:
        config: `evaluation.samples` and the sampling numbers are final.
        sets: benchmark -> its problems, in the order of the report.
        sampling_from: where the sampling numbers come from, in words.
        limit: at most so many problems of each set; None for all.
        store: the directory that is gone on with; None for a new evaluation.
        description: as `describe` gives it; empty until `ready_to_draw`.
    """

    config: Config
    sets: dict[str, ProblemSet]
    sampling_from: str
    limit: int | None
    store: EvaluationDirectory | None
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> dict[str, Sequence[Problem]]:
        """Benchmark -> its problems."""
        return {name: problems.problems for name, problems in self.sets.items()}

    def plan(self) -> dict[str, dict[str, Any]]:
        """For each benchmark: problems, completions, and the most tokens that are generated."""
        samples = self.config.evaluation.samples
        longest = evaluation_sampling(self.config).max_new_tokens
        return {
            name: {
                "problems": len(problems.problems),
                "completions": len(problems.problems) * samples,
                "generated_tokens_at_most": len(problems.problems) * samples * longest,
                "revision": problems.revision,
            }
            for name, problems in self.sets.items()
        }


def with_samples(config: Config, samples: int) -> Config:
    """The config with so many samples a problem."""
    evaluation = config.evaluation.model_copy(update={"samples": samples})
    return config.model_copy(update={"evaluation": evaluation})


def prepare(
    config: Config,
    store: EvaluationDirectory | None,
    benchmarks: Sequence[str],
    limit: int | None,
    messages: Messages,
    *,
    regrading: bool = False,
    given: Mapping[str, ProblemSet] | None = None,
) -> Session:
    """Read the problems and settle the extent.

    Args:
        store: the evaluation to go on with; its benchmarks, limit and samples are kept or grow.
        benchmarks: names, files or keys of `given`; by default the store's, else the embedded set.
        limit: at most so many problems of each.
        given: problems at hand, by benchmark.

    Raises:
        UsageError: a benchmark is named twice, or fewer problems or samples than the store holds.
        DataError: a benchmark cannot be read.
        ConfigError, ModelError: recommended sampling numbers cannot be had.
    """
    config = with_absolute_adapter(config)  # so that it can be resumed from anywhere
    if regrading and store is not None:
        source = store.description["sampling_from"]
    else:
        config, source = with_recommended(config, messages)
    names, limit = _extent(benchmarks, limit, store, config.evaluation.samples)
    at_hand = given or {}
    sets = told_apart(
        {
            name: _first(at_hand[name], limit)
            if name in at_hand
            else load_benchmark(name, config, limit)
            for name in names
        }
    )
    for problems in sets.values():
        if problems.report.remarkable:
            messages.note(f"{problems.name}: {problems.report.sentence()}")
        if problems.caution:
            messages.note(f"{problems.name}: {problems.caution}")
        for note in problems.notes:
            messages.warn(note)
    return Session(config, sets, source, limit, store)


def _first(problems: ProblemSet, limit: int | None) -> ProblemSet:
    return replace(problems, problems=problems.problems[:limit])


def _extent(
    asked: Sequence[str], limit: int | None, store: EvaluationDirectory | None, samples: int
) -> tuple[list[str], int | None]:
    """The benchmarks and the limit: what is asked for, and at least what the store holds."""
    if len(set(asked)) < len(asked):
        raise UsageError("the same --benchmark is named twice", "name each once")
    if store is None:
        return list(asked) or [EMBEDDED], limit
    then = store.description
    limit = limit or then["limit"]
    if limit is not None and then["limit"] is None:
        raise UsageError(
            f"{store.directory} holds whole benchmarks; --limit {limit} would be fewer",
            "leave out --limit, or give another --out",
        )
    for flag, now, before in (
        ("limit", limit, then["limit"]),
        ("samples", samples, then["samples"]),
    ):
        if before is not None and now is not None and now < before:
            raise UsageError(
                f"{store.directory} was made with --{flag} {before}, and --{flag} {now} is fewer",
                f"leave it out or raise it (results are never of fewer {flag} than are there), or "
                "give another --out",
            )
    return list(dict.fromkeys([*then["benchmarks"], *asked])), limit


def ready_to_draw(session: Session, messages: Messages) -> Session:
    """The session with its backend chosen and its description.

    Raises:
        BackendMissing: the backend cannot run on this machine.
        RunError: the store was made with other settings.
    """
    config, _ = choose_backend(session.config, messages)
    description = describe(config, session.sets, session.sampling_from, session.limit)
    if session.store is not None:
        session.store.require_same(description)
    return replace(session, config=config, description=description)


@contextlib.contextmanager
def opened(
    session: Session, directory: Path, policy: Policy, messages: Messages
) -> Iterator[EvaluationDirectory]:
    """The session's directory, made or gone on with, locked until the end of the block.

    Args:
        directory: where to make a new one.

    Raises:
        RunError: it is in use, or a problem has changed since its samples were drawn.
        Interrupted: in place of a `KeyboardInterrupt` in the block, with the way to go on.
    """
    store = session.store or EvaluationDirectory.create(
        directory, session.description, session.config
    )
    _warn_of_idle_flag(session, policy, messages)
    with store:
        store.keep_problems(session.members)
        store.describe(session.description)
        try:
            yield store
        except KeyboardInterrupt as error:
            kept = sum(len(store.samples(name)) for name in session.sets)
            raise Interrupted(
                f"stopped with {kept:,} samples graded, all kept",
                f"go on with: opsd eval --resume --out {store.directory}",
            ) from error


def measure(
    session: Session, policy: Policy, store: EvaluationDirectory | None, listener: Listener
) -> dict[str, Evaluation]:
    """Draw and grade what is missing of every benchmark; without a store, everything.

    Returns:
        benchmark -> its evaluation, wrong answers clustered by meaning for the majority vote.
    """
    config = session.config
    samples = config.evaluation.samples
    results = {}
    with open_grader(config.grading) as grader:
        for name, problems in session.sets.items():
            wanted = {problem.id for problem in problems.problems}
            done = [
                sample
                for sample in (store.samples(name) if store is not None else ())
                if sample.problem_id in wanted and sample.sample_index < samples
            ]
            view = evaluation_view(config, problems.prompt)
            listener.phase(name, len(wanted) * samples, len(done))
            results[name] = evaluate(
                policy,
                name,
                problems.problems,
                PromptBuilder(view, policy.tokenizer, policy.context_limit).student,
                evaluation_sampling(config),
                samples=samples,
                seed=config.seed,
                grader=grader,
                listener=listener,
                on_sample=partial(store.append, name) if store is not None else None,
                done=done,
            ).with_votes(grader)
    return results


def _warn_of_idle_flag(session: Session, policy: Policy, messages: Messages) -> None:
    """Warn if `evaluation.thinking` makes no difference to the prompt."""
    if session.config.evaluation.thinking is None:
        return
    first = next(iter(session.sets.values())).problems[0]
    rendered = {
        PromptBuilder(evaluation_view(_thinking(session.config, flag)), policy.tokenizer)
        .student(first)
        .text
        for flag in (True, False)
    }
    if len(rendered) == 1:
        messages.warn("evaluation.thinking changes nothing: the chat template has no such flag")


def _thinking(config: Config, flag: bool) -> Config:
    changed = config.evaluation.model_copy(update={"thinking": flag})
    return config.model_copy(update={"evaluation": changed})


def ready_to_regrade(session: Session, store: EvaluationDirectory) -> Session:
    """The session with its description, for `regrade`.

    Neither the backend that drew the samples, nor the model, nor the adapter need be here: what was
    read of them then still holds, and a config that names others is refused.

    Raises:
        RunError: the store was made with other settings.
    """
    config, then = session.config, store.description
    if config.backend == AUTO:
        config = config.model_copy(update={"backend": then["backend"]})
    description = describe(config, session.sets, session.sampling_from, session.limit, then)
    store.require_same(description, regrading=True)
    return replace(session, config=config, description=description)


def regrade(session: Session, store: EvaluationDirectory, against: Path | None) -> EvaluationResult:
    """Grade every stored sample again, and write `results.json`; nothing is drawn.

    Args:
        store: locked.
        against: another evaluation's directory, to pair with by problem.

    Returns:
        The result; its summary also has `regraded` (samples graded) and `changed`.

    Raises:
        RunError: the store holds samples of other problems.
    """
    config = session.config
    with open_grader(config.grading) as grader:
        store.keep_problems(session.members, regrading=True)
        changed, kept = store.regrade(session.members, grader)
        store.describe(store.description | {"grader": session.description["grader"]})
        results = {
            name: assemble(
                name,
                [problem.id for problem in problems.problems],
                store.samples(name),
                config.evaluation.samples,
            ).with_votes(grader)
            for name, problems in session.sets.items()
        }
    counts = {"regraded": kept, "changed": changed}
    return conclude(store, results, session.description, against, counts)
