"""`opsd train`."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.interface import Capability, machine_memory
from opsd_cli import runs, trackers
from opsd_cli.cli.common import Request, choose_backend, loaded_policy, with_recommended
from opsd_cli.cli.console import Output
from opsd_cli.cli.live import watched
from opsd_cli.config import Config
from opsd_cli.environment import environment
from opsd_cli.errors import DataNotAtHand, UsageError
from opsd_cli.figures import count, duration, percent
from opsd_cli.problems.sources import Splits, load_splits
from opsd_cli.resolve import to_yaml
from opsd_cli.runs import Run
from opsd_cli.trackers import tracking

if TYPE_CHECKING:
    from backends.interface import Policy
    from opsd_cli.events import Listener
    from opsd_cli.training import TrainResult


def run(
    request: Request, directory: Path | None, resume: bool, resume_from: int | None = None
) -> None:
    """Train, and say what came of it."""
    out = request.out
    if resume or resume_from is not None:
        if directory is None:
            flag = "--resume" if resume_from is None else "--resume-from"
            raise UsageError(f"{flag} needs the run's directory", "give --out DIR")
        if request.without("backend").changes_anything:
            raise UsageError(
                "--resume goes on with the run's own config, which flags cannot change",
                "leave out the flags other than --backend, or start a new run in another --out",
            )
        with Run.resume(directory, resume_from) as opened:
            _go_on(opened, request, out)
        return
    from backends.model_files import commit_of

    config = request.config()
    if config.adapter is not None:
        config = config.model_copy(update={"adapter": str(Path(config.adapter).resolve())})
    if directory is not None:
        runs.refuse_used(directory)
    if request.dry_run:
        show_plan(config, splits_at_hand(config, out), out)
        return
    trackers.require(config.log)
    splits = load_splits(config)
    config, choice = choose_backend(config, out)
    config, _ = with_recommended(config, out)
    where = environment(choice.name, choice.reason)
    where |= {"data": splits.provenance(), "model_commit": commit_of(config)}
    with Run.create(directory, config, where) as opened:
        _work(opened, splits, out)


def splits_at_hand(config: Config, out: Output) -> Splits | None:
    """The problems; None where they are on a hub that cannot be asked."""
    try:
        splits = load_splits(config)
        for warning in splits.warnings:
            out.warn(warning)
        return splits
    except DataNotAtHand as error:
        out.note(f"{error.message}: planned without it")
        return None


def _go_on(opened: Run, request: Request, out: Output) -> None:
    """Go on with a run, or show the result of one that has finished."""
    from opsd_cli.training import finished_result

    finished = finished_result(opened)
    if finished is not None:
        for note in opened.notes:
            out.warn(note)
        out.note(f"this run has finished: {opened.directory}")
        _report(opened, finished, out)
        return
    trackers.require(opened.config.log)
    _choose_again(opened, request, out)
    splits = load_splits(opened.config)
    if opened.environment() is None:
        out.warn(f"{runs.ENVIRONMENT} was missing or damaged; it now describes this machine")
        where = environment(opened.config.backend, "as the run began")
        opened.add_environment(where | {"data": splits.provenance()})
    _work(opened, splits, out)


def _choose_again(opened: Run, request: Request, out: Output) -> None:
    """The run's own backend, or the one that was asked for: a checkpoint means the same on each.

    A move is written into the run's environment.json; its config.yaml stays as it began.
    """
    began = opened.config.backend
    wanted = request.flags.get("backend")
    if wanted in (None, began):
        out.note(f"backend {began}, as the run began")
        return
    config = opened.config.model_copy(update={"backend": wanted})
    opened.config, choice = choose_backend(config, out)
    out.note(f"the run began on {began}; from here on the same steps to rounding, not bit for bit")
    step = opened.state()["step"] if opened.latest() else 0
    opened.add_environment({"from_step": step} | environment(choice.name, choice.reason))


def _work(opened: Run, splits: Splits, out: Output) -> None:
    from opsd_cli.training import train

    out.note(f"run {opened.directory}")
    config = opened.config

    def work(policy: Policy, listener: Listener) -> TrainResult:
        step = opened.state()["step"] if opened.latest() else 0
        described = config.model_dump(mode="json")
        with tracking(config.log, listener, opened.directory, described, step) as told:
            return train(policy, splits, opened, told, stopped.is_set)

    with (
        loaded_policy(config, out, True, opened.directory / "vllm") as policy,
        stop_on_signal(out) as stopped,
    ):
        result = watched(out, partial(work, policy))
    _report(opened, result, out)


def _report(opened: Run, result: TrainResult, out: Output) -> None:
    from opsd_cli.reports import write_run_report

    report = write_run_report(opened.directory)
    show_result(result, report, out)
    out.object(result.as_dict())


@contextmanager
def stop_on_signal(out: Output) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts at once."""
    stopped = threading.Event()

    def ask(number: int, _: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        out.warn("stopping at the next rollout, then saving; press Ctrl-C again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plan(config: Config, splits: Splits | None) -> dict[str, Any]:
    """The most tokens a run can spend, by kind, and what it evaluates.

    Without the problems at hand, as many of them for validation and test as the config allows.
    """
    from opsd_cli import methods

    train = config.train
    per_question = methods.get(config).rollouts_per_question()
    rollouts = train.steps * train.questions_per_step * per_question
    sizes = {
        "train": None,
        "validation": config.data.validation_problems,
        "test": config.data.test_problems,
    }
    if splits is not None:
        sizes = {
            "train": len(splits.train.problems),
            "validation": len(splits.validation.problems),
            "test": len(splits.test.problems),
        }
    validations = 1 + train.steps // train.evaluate_every + bool(train.steps % train.evaluate_every)
    return {
        "problems": sizes,
        "rollouts": rollouts,
        "generated_tokens_at_most": rollouts * config.sampling.max_new_tokens,
        "evaluation_rollouts_at_most": config.evaluation.samples
        * (
            validations * (sizes["validation"] or 0)
            + 3 * (sizes["test"] or 0)
            + 2 * config.preflight.problems * config.preflight.enabled
        ),
    }


def show_plan(config: Config, splits: Splits | None, out: Output) -> None:
    """What `--dry-run` shows."""
    planned = plan(config, splits)
    out.show(to_yaml(config).rstrip())
    sizes = ", ".join(f"{size} {name}" for name, size in planned["problems"].items() if size)
    out.show(f"\nproblems: {sizes}{' at most' if splits is None else ''}")
    out.show(
        f"rollouts: {planned['rollouts']:,}, at most "
        f"{planned['generated_tokens_at_most']:,} generated tokens; evaluation: at most "
        f"{planned['evaluation_rollouts_at_most']:,} rollouts"
    )
    memory = _memory(config, splits, out)
    out.show("nothing was written")
    out.object({"config": json.loads(config.model_dump_json()), "plan": planned, "memory": memory})


def _memory(config: Config, splits: Splits | None, out: Output) -> dict[str, Any] | None:
    """Show what the run will need in memory, part by part, and what to change if that is too much.

    None where it cannot be known: a model that is not there, or of a kind that the plan knows not.
    """
    import backends
    from backends.model_files import read_settings
    from opsd_cli import memory_plan
    from opsd_cli.errors import BackendMissing, ModelNotAtHand, OpsdError

    try:
        try:
            name = backends.choose(config.backend).name
            device = backends.get(name).capability()
        except BackendMissing as error:
            if config.backend == "auto":  # nothing is installed yet: what would be tried first
                name = backends.usual()
                device = Capability(True, "", memory=machine_memory(), on_cpu=name == "cpu")
                out.note(f"{error.message}: planned for {name}")
            else:  # a preset for another machine: its needs can be told, not whether they are met
                name, device = config.backend, Capability(True, "", on_cpu=False)
                out.note(f"{error.message}: planned for one that has it")
        try:
            shape = memory_plan.shape_of(read_settings(config.model_path, config.revision))
        except ModelNotAtHand:
            shape = memory_plan.known_shape(config.model)
            if shape is None:
                raise
    except OpsdError as error:
        out.show(f"memory: not known: {error.message}")
        return None
    if shape is None:
        out.show("memory: not known for this architecture")
        return None
    known = shape
    prompts = memory_plan.estimated(config, splits.train.problems if splits else [])

    def planned(changed: Config) -> memory_plan.MemoryPlan:
        return memory_plan.plan(changed, known, prompts, name, device.on_cpu)

    found = planned(config)
    out.show(
        f"\nmemory on {name}, prompts of about {prompts.student} and {prompts.teacher} tokens "
        "at most"
    )
    for part, size in found.parts.items():
        out.show(f"  {part:<24}{_size(size):>10}")
    answer: dict[str, Any] = {"parts": found.parts, "peak": found.peak, "limit": device.memory}
    if device.memory is None:
        out.show(f"  {'peak':<24}{_size(found.peak):>10}")
        return answer
    fits = found.peak <= device.memory
    out.show(
        f"  {'peak':<24}{_size(found.peak):>10}  {'fits in' if fits else 'does not fit in'} "
        f"{_size(device.memory)}"
    )
    if not fits:
        changes = memory_plan.nearest_that_fits(
            config, device.memory, lambda changed: planned(changed).peak
        )
        answer["nearest"] = changes
        if changes is None:
            out.show("  no batch, rank or length makes it fit: choose a smaller or quantised model")
        else:
            settings = " ".join(f"--set {key}={json.dumps(v)}" for key, v in changes.items())
            out.show(f"  nearest that fits: {settings}")
    return answer


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def show_result(result: TrainResult, report: Path, out: Output) -> None:
    """The closing table."""
    from rich.table import Table

    base, best, final = (result.accuracy[name] for name in ("base", "best", "final"))
    table = Table(
        title="accuracy on the test split", title_justify="left", box=None, padding=(0, 2)
    )
    for heading in ("", "accuracy (95% interval)", "gain"):
        table.add_column(heading)
    table.add_row("base", percent(base), "")
    for name, value in ((f"best (step {result.best_step})", best), ("final", final)):
        table.add_row(name, percent(value), f"{100 * (value.value - base.value):+.1f} points")
    out.show(table)
    tokens = result.tokens
    out.show(
        f"{result.steps} steps ({result.stopped_because}) in {duration(result.seconds)}; tokens: "
        f"{count(tokens.generated)} generated, {count(tokens.teacher_scored)} scored by the "
        f"teacher, {count(tokens.trained)} trained"
    )
    out.show(f"run: {result.run_dir}\nreport: {report}")
    if not out.quiet:
        out.note(
            f"next: opsd sample --adapter {result.run_dir} --divergence\n"
            f"      opsd eval --adapter {result.run_dir} --samples 4"
        )
