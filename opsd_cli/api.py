"""The functions that `opsd_cli` exports: the commands, for a notebook or a program.

Each does what the command of its name does, through the same functions of
`opsd_cli.training.session`, `opsd_cli.evaluation.session` and `opsd_cli.comparison.session`. None
prints: progress goes to a `Listener`, and failures are `OpsdError`s with a message and a hint.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.comparison import session as comparison_session
from opsd_cli.comparison.new_arms import Wanted, begin_new
from opsd_cli.comparison.noted_jobs import noted_jobs
from opsd_cli.comparison.session import Comparison
from opsd_cli.config.bounds import require_accuracy, require_counts
from opsd_cli.config.schema import Config
from opsd_cli.devices.number import Devices, require_loaded_here
from opsd_cli.devices.number import count as count_devices
from opsd_cli.errors import UsageError
from opsd_cli.evaluation import session as evaluation_session
from opsd_cli.evaluation.directory import EvaluationDirectory
from opsd_cli.evaluation.given_problems import Benchmarks, asked_for
from opsd_cli.evaluation.preparation import (
    EvaluationSession,
    directory_to_continue,
    prepare,
    require_directory,
    without_analyses,
)
from opsd_cli.evaluation.result import EvaluationResult
from opsd_cli.interruption import Stop, never
from opsd_cli.loading import (
    Source,
    choose_backend,
    config_of,
    load_config,
    loaded_policy,
    resolved_config,
)
from opsd_cli.reports.comparison_pages import write_comparison_pages
from opsd_cli.reports.evaluation_report import write_evaluation_report
from opsd_cli.reports.run_report import write_run_report
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import session as training_session
from opsd_cli.training.result import TrainResult
from opsd_cli.training.session import TrainingSession

if TYPE_CHECKING:
    from backends.interface import Policy


def load_policy(
    config: Source | None = None,
    *,
    checkpoint: str | int | None = None,
    trainable: bool = True,
    listener: Listener | None = None,
    stack: contextlib.ExitStack | None = None,
) -> Policy:
    """Load a config's model, with its adapter, on the best backend of this machine.

    The policy can be given to `train` and `evaluate`, and has `generate`, `score`, `measure` and
    the rest of `backends.interface.Policy`. A rollout engine that it started (a vLLM server) ends
    with the program, or with a stack:

        with contextlib.ExitStack() as stack:
            policy = load_policy(config, stack=stack)

    Args:
        checkpoint: of a run given as `config`: "best" (the default), "last", or a step.
        trainable: also make an optimizer, and a fresh adapter where the config names none.
        stack: ends the rollout engine when it is closed. The model itself is freed once nothing
            refers to the policy.

    Raises:
        BackendMissing: no backend, or not the config's, can run on this machine.
        ModelError: the model or its adapter cannot be loaded.
    """
    messages = listener or Listener()
    named = config_of(config) if checkpoint is None else load_config(config, checkpoint=checkpoint)
    chosen, _ = choose_backend(named, messages)
    with contextlib.ExitStack() as opened:
        policy = opened.enter_context(loaded_policy(chosen, messages, trainable))
        close = opened.pop_all().close
    if stack is None:
        atexit.register(close)
    else:
        stack.callback(close)
    return policy


def train(
    config: Source | None = None,
    out: str | Path | None = None,
    *,
    policy: Policy | None = None,
    resume: bool = False,
    resume_from: int | None = None,
    backend: str | None = None,
    steps: int | None = None,
    devices: Devices = 1,
    listener: Listener | None = None,
    stop: Stop = never,
) -> TrainResult:
    """Train, as `opsd train` does, and return the result.

    Args:
        config: what to train, and on which problems.
        out: the run's directory, new or empty; by default a fresh one under `runs/`.
        policy: loaded trainable from the same config; by default it is loaded here. Afterwards it
            has the best checkpoint's weights, or those of the last step if none beat the base.
        resume: resume the run in `out`, with its own config, as if it had never stopped; a
            finished run gives its result.
        resume_from: resume from the checkpoint of this step.
        backend: where to resume; by default where the run began.
        steps: with `resume`, of a finished run: its new and greater number of steps.
        devices: of this machine, that share the work, or "auto" for all; not with `policy`.
        listener: receives steps, evaluations, notes and warnings.
        stop: polled after each finished rollout; True saves what a resume needs and ends in
            `Interrupted`.

    Returns:
        Accuracies on the test split (base, best, final, each with its 95% interval), tokens by
        kind, seconds, and the run's directory.

    Raises:
        UsageError: `resume` without `out`, or with a config; devices that do not suit.
        RunError: `out` is not empty, or cannot be resumed.
        DataError: the problems cannot be read.
        PreflightFailed: the reference does not help the teacher.
        TrainingError: a loss or a gradient is not finite.
        Interrupted: `stop` returned True.
    """
    messages, directory = listener or Listener(), Path(out) if out is not None else None
    require_loaded_here(policy is not None, devices)
    if resume or resume_from is not None:
        if directory is None or config is not None:
            raise UsageError(
                "a run is resumed in its own directory, with its own config",
                "give out, and no config",
            )
        opening = training_session.resume(directory, messages, resume_from, backend, steps)
    else:
        for name, value in (("backend", backend), ("steps", steps)):
            if value is not None:
                raise UsageError(f"{name} is for a resumed run", "set it in the config")
        opening = training_session.begin(_suiting(config, devices), directory, messages)
    with opening as opened:
        result = _trained(opened, policy, messages, stop, devices)
        write_run_report(opened.run.directory)
        return result


def _suiting(source: Source | None, devices: Devices) -> Config:
    """The config that a source stands for; raises `UsageError` if the devices do not suit it."""
    config = config_of(source)
    count_devices(devices, config)
    return config


def _trained(
    opened: TrainingSession, policy: Policy | None, listener: Listener, stop: Stop, devices: Devices
) -> TrainResult:
    with contextlib.ExitStack() as stack:
        if opened.finished is not None:
            return opened.finished
        if policy is None:
            config, folder = opened.run.config, opened.engine_folder
            policy = stack.enter_context(loaded_policy(config, listener, True, folder, devices))
        return training_session.work(opened, policy, listener, stop)


def evaluate(
    config: Source | None = None,
    benchmarks: Benchmarks | None = None,
    out: str | Path | None = None,
    *,
    policy: Policy | None = None,
    samples: int | None = None,
    limit: int | None = None,
    resume: bool = False,
    regrade: bool = False,
    against: str | Path | None = None,
    devices: Devices = 1,
    listener: Listener | None = None,
) -> EvaluationResult:
    """Measure accuracy, as `opsd eval` does: k graded samples per problem.

    Args:
        config: the model, its adapter, prompts and sampling; a run's directory stands for its best
            checkpoint. A resumed evaluation has its own by default.
        benchmarks: names (see `opsd data`), files, problems, or lists of problems by name; `test`
            is the config's own test split. By default that, or the embedded test problems if the
            config names no training data.
        out: a new directory for samples, results and report; by default nothing is written.
        policy: measure this one, as it is now, in place of loading the config's model.
        samples: completions per problem (k); by default `evaluation.samples`.
        limit: the first so many problems of each benchmark.
        resume: resume the evaluation in `out`, which may grow.
        regrade: grade the samples in `out` again; nothing is sampled and no model is loaded.
        against: another evaluation's directory, to pair with by problem.
        devices: as in `train`.
        listener: receives phases, progress, notes and warnings.

    Returns:
        For each benchmark its samples and estimates; `accuracy` is avg@k with its 95% interval.

    Raises:
        UsageError: arguments that exclude each other.
        DataError: a benchmark cannot be read, or a problem has no answer.
        RunError: `out` holds something already, or was made with other settings.
        Interrupted: Ctrl-C during sampling into `out`; all samples are kept.
    """
    messages = listener or Listener()
    require_counts(limit=limit)
    require_loaded_here(policy is not None, devices)
    names, given = asked_for(benchmarks)
    other = Path(against) if against is not None else None
    again = resume or regrade
    require_directory(out, policy is not None, again or other is not None)
    path = Path(out) if out is not None else None
    directory = directory_to_continue(path, again, other)
    chosen = _evaluated_config(config, directory, samples)
    count_devices(devices, without_analyses(chosen))
    session = prepare(chosen, directory, names, limit, messages, regrading=regrade, given=given)
    if path is None:
        return _measured_in_memory(session, policy, messages, devices)
    return evaluation_session.run(
        session, path, messages, watch=lambda measure: measure(messages),
        write_report=write_evaluation_report, against=other, regrading=regrade, devices=devices,
    )  # fmt: skip


def _evaluated_config(
    source: Source | None, directory: EvaluationDirectory | None, samples: int | None
) -> Config:
    """The config to evaluate with: as given, or the directory's, and with as many samples."""
    if source is None and directory is not None:
        config = resolved_config(None, (), {}, base=directory.config_file)
    else:
        config = config_of(source)
    if samples is None and directory is not None:
        samples = directory.description["samples"]
    return config if samples is None else load_config(config, **{"evaluation.samples": samples})


def _measured_in_memory(
    session: EvaluationSession, policy: Policy | None, listener: Listener, devices: Devices
) -> EvaluationResult:
    with contextlib.ExitStack() as stack:
        if policy is None:
            config, _ = choose_backend(session.config, listener)
            session = replace(session, config=config)
            loading = loaded_policy(without_analyses(config), listener, False, devices=devices)
            policy = stack.enter_context(loading)
        results = evaluation_session.measure(session, policy, None, listener)
    summary = {"benchmarks": {name: result.as_dict() for name, result in results.items()}}
    return EvaluationResult(results, summary)


def compare(
    what: Mapping[str, Config] | Config | Sequence[str | Path] | None = None,
    out: str | Path | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    grid: bool = False,
    halving: bool = False,
    halving_rounds: int | None = None,
    halving_fraction: float | None = None,
    watch: str | Path | None = None,
    seeds: int = 3,
    tune: bool = False,
    target: float | None = None,
    jobs: int = 1,
    resume: bool = False,
    listener: Listener | None = None,
) -> Comparison:
    """Compare methods on equal terms, as `opsd compare` does: tokens for the same accuracy.

    Args:
        what: configs to train, by a label that starts with the method's name, or one with `vary`;
            or finished runs. By default `opsd` and `grpo` (with `vary` `opsd`), embedded.
        vary: config key -> values; the arms are variants of the first config, one change each.
        grid: with `vary`, all combinations of the values.
        halving, halving_rounds, halving_fraction: end the worse arms early, as `--halving` does.
        watch: problems of another kind (`data.watch`), measured and deciding nothing.
        out: a new directory; by default a fresh one under `runs/`.
        seeds: runs of each config, counted from the first config's seed.
        tune: first choose each learning rate on validation.
        target: test accuracy to count tokens to, within [0, 1]; by default as the command's.
        jobs: runs side by side, each in a process of its own.
        resume: resume the comparison in `out`.
        listener: receives a note for each run that has finished.

    Returns:
        The summary (the object of `opsd compare --json`), its verdict, picture and report.

    Raises:
        UsageError: too few configs or runs, a wrong label or number.
        RunError: `out` holds something already, or a run has not finished.
        TrainingError: a run failed.
        Interrupted: Ctrl-C; every run keeps its newest checkpoint.
    """
    messages = listener or Listener()
    require_counts(seeds=seeds, jobs=jobs)
    require_accuracy(target)
    directory = Path(out) if out is not None else None
    wanted = Wanted(vary, grid, halving, halving_rounds, halving_fraction, watch)
    wanted.require_new(not resume and isinstance(what, Mapping | Config | None))
    if what is not None and not isinstance(what, Mapping | Config):
        return _compare_finished(what, directory, messages, target)
    if not resume:
        directory = begin_new(what, wanted, directory, (seeds, tune, target), messages)
    elif directory is None or what is not None:
        raise UsageError("a comparison is resumed with its own plan", "give out, and no configs")
    with comparison_session.held(directory):
        run = noted_jobs(jobs, messages)
        result = comparison_session.train_and_compare(directory, run, messages, target)
        write_comparison_pages(result, messages)
        return result


def _compare_finished(
    runs: Sequence[str | Path], directory: Path | None, messages: Listener, target: float | None
) -> Comparison:
    result = comparison_session.compare_finished(
        [Path(run) for run in runs], directory, messages, target
    )
    write_comparison_pages(result, messages)
    return result
