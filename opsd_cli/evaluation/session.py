"""An evaluation from its request to its results: the work of `opsd eval` and `opsd_cli.evaluate`.

    directory_to_continue -> prepare (opsd_cli.evaluation.preparation) -> run

`run` loads the model, samples and grades (`ready_to_draw`, `opened`, `measure`), or grades stored
samples again (`ready_to_regrade`, `regrade`); both end in `opsd_cli.evaluation.result.conclude`.

`describe` says what was measured, which decides whether samples may join those that a directory
holds already. Nothing here prints: callers pass a listener.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import AUTO
from opsd_cli.config.schema import Config
from opsd_cli.devices.number import Devices
from opsd_cli.errors import Interrupted
from opsd_cli.evaluation.description import describe, with_grader
from opsd_cli.evaluation.directory import EvaluationDirectory
from opsd_cli.evaluation.evaluate import evaluate, evaluation_sampling, evaluation_view
from opsd_cli.evaluation.held_out import reference_log_prob
from opsd_cli.evaluation.pairing import require_grades
from opsd_cli.evaluation.preparation import EvaluationSession, without_analyses
from opsd_cli.evaluation.reading import Reading
from opsd_cli.evaluation.result import EvaluationResult, conclude
from opsd_cli.evaluation.samples import Evaluation, assemble, with_likelihood
from opsd_cli.formatting import numbered
from opsd_cli.grading import open_grader
from opsd_cli.loading import choose_backend, loaded_policy
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.tracking.listener import Listener, Messages, WorkAhead

if TYPE_CHECKING:
    from backends.interface import Policy

Results = dict[str, Evaluation]
"""Benchmark -> its evaluation."""
Watch = Callable[[Callable[[Listener], Results]], Results]
"""Calls the work with a listener that shows its progress."""
WriteReport = Callable[[EvaluationDirectory, Results, Mapping[str, Any]], object]
"""Writes the report of results and their summary into the directory, which is locked."""


def run(
    session: EvaluationSession,
    path: Path | None,
    messages: Messages,
    *,
    watch: Watch,
    write_report: WriteReport,
    against: Path | None = None,
    regrading: bool = False,
    devices: Devices = 1,
) -> EvaluationResult:
    """Sample and grade what is missing, or grade what is stored again, and conclude.

    The directory stays locked until its report is written.

    Args:
        path: where to make the directory of a new evaluation; None for a name of its own.
        against: another evaluation's directory, to pair with by problem.
        regrading: grade the samples of the session's directory again; nothing is sampled.
        devices: of this machine, which sample together.

    Raises: as `ready_to_draw`, `loaded_policy` and `opened`, or `ready_to_regrade` and `regrade`.
    """
    stored = session.directory
    if against is not None:
        require_grades(session.config.grading, against)
    if regrading and stored is not None:
        session = ready_to_regrade(session, stored)
        with stored as directory:
            result = regrade(session, directory, against, messages)
            write_report(directory, result.benchmarks, result.summary)
            return result
    session = ready_to_draw(session, messages)
    with (
        loaded_policy(
            without_analyses(session.config), messages, trainable=False, devices=devices
        ) as policy,
        opened(session, path, policy, messages) as directory,
    ):
        results = watch(partial(measure, session, policy, directory))
        result = conclude(directory, results, session.description, against)
        write_report(directory, result.benchmarks, result.summary)
        return result


def ready_to_draw(session: EvaluationSession, messages: Messages) -> EvaluationSession:
    """The session with its backend chosen and its description.

    Raises:
        BackendMissing: the backend cannot run on this machine.
        RunError: the directory was made with other settings.
    """
    config, _ = choose_backend(session.config, messages)
    description = describe(config, session.sets, session.sampling_from, session.limit)
    if session.directory is not None:
        session.directory.require_same(description)
    return replace(session, config=config, description=description)


@contextlib.contextmanager
def opened(
    session: EvaluationSession, path: Path | None, policy: Policy, messages: Messages
) -> Iterator[EvaluationDirectory]:
    """The session's directory, created or resumed, locked until the end of the block.

    Args:
        path: where to make a new one; None for a name of its own.

    Raises:
        RunError: it is in use, or a problem has changed since it was sampled.
        Interrupted: in place of a `KeyboardInterrupt` in the block, with the command that resumes.
    """
    directory = session.directory or EvaluationDirectory.create(
        path, session.description, session.config
    )
    _warn_of_idle_flag(session, policy, messages)
    with directory:
        directory.keep_problems(session.members)
        directory.describe(session.description)
        try:
            yield directory
        except KeyboardInterrupt as error:
            kept = sum(len(directory.samples(name)) for name in session.sets)
            raise Interrupted(
                f"stopped with {numbered(kept, 'sample')} graded, all kept",
                f"go on with: opsd eval --resume --out {directory.path}",
            ) from error


def measure(
    session: EvaluationSession,
    policy: Policy,
    directory: EvaluationDirectory | None,
    listener: Listener,
) -> Results:
    """Sample and grade what is missing of every benchmark; without a directory, everything.

    Returns:
        benchmark -> its evaluation, wrong answers clustered by meaning for the majority vote; where
        nothing is graded, with the likelihood of the solutions.
    """
    config = session.config
    samples = config.evaluation.samples
    sampling = evaluation_sampling(config)
    results: Results = {}
    with open_grader(config.grading, listener.warn) as grader:
        for name, problems in session.sets.items():
            wanted = {problem.id for problem in problems.problems}
            done = [
                sample
                for sample in (directory.samples(name) if directory is not None else ())
                if sample.problem_id in wanted and sample.sample_index < samples
            ]
            view = evaluation_view(config, problems.prompt)
            prompt_of = PromptBuilder(view, policy.tokenizer, policy.context_limit).student
            if directory is not None:
                directory.keep_prompts(name, {p.id: prompt_of(p).text for p in problems.problems})
            later = [one for other, one in session.sets.items() if other not in (*results, name)]
            listener.ahead(
                WorkAhead(
                    completions=samples * sum(len(one.problems) for one in later),
                    completion_tokens=sampling.max_new_tokens,
                )
            )
            listener.phase(name, len(wanted) * samples, len(done))
            found = evaluate(
                policy,
                name,
                problems.problems,
                prompt_of,
                sampling,
                samples=samples,
                seed=config.seed,
                grader=grader,
                listener=listener,
                on_sample=partial(directory.append, name) if directory is not None else None,
                done=done,
            ).with_votes(grader)
            if not found.graded:
                likely = reference_log_prob(
                    policy, problems.problems, prompt_of, Reading(name, listener)
                )
                found = replace(found, reference_log_prob=likely.reference_log_prob)
            results[name] = found
    if directory is not None:
        directory.put_in_order()
    return results


def _warn_of_idle_flag(session: EvaluationSession, policy: Policy, messages: Messages) -> None:
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


def ready_to_regrade(
    session: EvaluationSession, directory: EvaluationDirectory
) -> EvaluationSession:
    """The session with its description, for `regrade`.

    The backend that sampled, the model and the adapter need not be available here: their stored
    description still holds, and a config that names others is refused.

    Raises:
        RunError: the directory was made with other settings.
    """
    config, then = session.config, directory.description
    if config.backend == AUTO:
        config = config.model_copy(update={"backend": then["backend"]})
    description = describe(config, session.sets, session.sampling_from, session.limit, then)
    directory.require_same(description, regrading=True)
    return replace(session, config=config, description=description)


def regrade(
    session: EvaluationSession,
    directory: EvaluationDirectory,
    against: Path | None,
    messages: Messages,
) -> EvaluationResult:
    """Grade every stored sample again, and write `results.json`; nothing is sampled.

    Args:
        directory: locked.
        against: another evaluation's directory, to pair with by problem.

    Returns:
        The result; its summary also has `regraded` (samples graded) and `changed`.

    Raises:
        RunError: the directory holds samples of other problems.
    """
    config = session.config
    with open_grader(config.grading, messages.warn) as grader:
        directory.keep_problems(session.members, regrading=True)
        changed, kept = directory.regrade(session.members, grader)
        directory.describe(with_grader(directory.description, session.description))
        results = {
            name: with_likelihood(
                assemble(
                    name,
                    [problem.id for problem in problems.problems],
                    directory.samples(name),
                    config.evaluation.samples,
                ).with_votes(grader),
                directory.summary,
            )
            for name, problems in session.sets.items()
        }
    counts = {"regraded": kept, "changed": changed}
    return conclude(directory, results, session.description, against, counts)
