"""What `--dry-run` shows: the tokens, memory and time that a run will need, and its settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.rollout_engines import planned_rollouts
from opsd_cli.cli.console import Output
from opsd_cli.cli.folding import Name
from opsd_cli.config.origins import Setting
from opsd_cli.config.resolve import to_yaml
from opsd_cli.config.schema import Config
from opsd_cli.formatting import duration, numbered
from opsd_cli.planning.available_splits import available_splits
from opsd_cli.planning.before_step_1 import RolloutsBeforeStep1
from opsd_cli.planning.planned_memory import PlannedMemory, UnknownMemory, planned_memory
from opsd_cli.planning.readiness import require_ready
from opsd_cli.planning.token_plan import TokenPlan, token_plan
from opsd_cli.problems.sources import Splits
from opsd_cli.training.remaining import Remaining

if TYPE_CHECKING:
    from rich.table import Table

    from opsd_cli.training.time_probe import TimeEstimate


#: The columns that the list of settings takes, and the least that its values get of them.
COLUMNS, LEAST_VALUE = 79, 12
#: Share of a CPU core under which a measurement of time was slowed down by other programs.
BUSY = 0.6


def show_rest(
    directory: Path, left: Remaining, out: Output, settings: Sequence[Setting] | None = ()
) -> None:
    """Show what resuming a run would do: its checkpoint, and the steps and tokens that are left.

    Args:
        settings: None shows the whole config.
    """
    config, most = left.config, None
    if left.finished:
        out.show(f"this run has finished: {directory}")
    else:
        splits = available_splits(config, out)
        require_ready(config, out, learns=True)
        start = f"from the checkpoint of step {left.step}" if left.step else "from the beginning"
        out.show(
            f"{directory} would go on {start}: {left.steps} of "
            f"{numbered(config.train.steps, 'step')} "
            f"{'is' if left.steps == 1 else 'are'} left, with "
            f"{numbered(left.validations, 'validation')}"
        )
        if left.steps:
            train = config.train.model_copy(update={"steps": left.steps})
            most = token_plan(config.model_copy(update={"train": train}), splits).most
            out.show(
                f"these steps: {numbered(most.rollouts, 'rollout')}, at most {most.generated:,} "
                "generated "
                f"tokens, {most.teacher_scored:,} scored by the teacher, {most.trained:,} trained"
            )
    if settings is None:
        _show_settings(config, settings, out)
    out.show("nothing was written")
    tokens = {"rollouts": 0, "generated_tokens_at_most": 0}
    if most is not None:
        tokens = {"rollouts": most.rollouts, "generated_tokens_at_most": most.generated}
    out.object({"config": json.loads(config.model_dump_json()), "resume": left.as_dict() | tokens})


def show_plan(
    config: Config,
    splits: Splits | None,
    out: Output,
    measure: Callable[[TokenPlan], TimeEstimate] | None = None,
    devices: int = 1,
    settings: Sequence[Setting] | None = None,
) -> None:
    """Show a run's tokens, memory, time as `measure` estimates it, and settings.

    Args:
        devices: that share the run; the memory is that of each.
        settings: those to show; None shows the whole config.
    """
    plan = token_plan(config, splits)
    most = plan.most
    sizes = ", ".join(f"{size} {name}" for name, size in plan.problems.items() if size)
    out.show(f"problems: {sizes}{' at most' if splits is None else ''}")
    out.show(
        f"rollouts: {most.rollouts:,}, at most {most.generated:,} generated tokens\n"
        f"evaluation: at most {numbered(plan.evaluation_rollouts, 'rollout')}, {most.evaluation:,} "
        "tokens"
    )
    servers = planned_rollouts(config)
    if servers is not None:
        out.show(f"sampled by {servers}")
    out.show(
        f"{prompts_of(plan)}:\n  at most {most.teacher_scored:,} tokens scored by the teacher, "
        f"{most.trained:,} trained"
    )
    out.show(
        f"of these, {plan.first.claim}\n"
        "  fewer: preflight.problems, data.validation_problems, data.test_problems"
    )
    memory = planned_memory(config, splits, out, devices)
    _show_memory(memory, out)
    estimate = None if measure is None else measure(plan)
    if estimate is not None:
        _show_time(estimate, plan.first, out)
    _show_settings(config, settings, out)
    out.show("nothing was written")
    out.object(
        {
            "config": json.loads(config.model_dump_json()),
            "plan": plan.as_dict(),
            "memory": None if isinstance(memory, UnknownMemory) else memory.as_dict(),
            **({} if servers is None else {"servers": servers}),
            **({} if estimate is None else {"seconds": estimate.as_dict()}),
        }
    )


def _show_settings(config: Config, settings: Sequence[Setting] | None, out: Output) -> None:
    """Show the settings, each with its origin; None shows the whole config."""
    if settings is None:
        out.show("\nthe whole config:")
        out.exact(to_yaml(config).rstrip())
        return
    if not settings:
        out.show("\nevery setting is the default (--show-config lists them)")
        return
    out.show("\nsettings that differ from the defaults (--show-config lists all):")
    keys = max(len(each.key) for each in settings)
    most = max(LEAST_VALUE, COLUMNS - 6 - keys - max(len(each.origin) for each in settings))
    texts = [_value(each.value, most) for each in settings]
    values = max(map(len, texts))
    for each, text in zip(settings, texts, strict=True):
        out.exact(f"  {each.key:<{keys}}  {text:<{values}}  {each.origin}".rstrip())


def _value(value: Any, most: int) -> str:
    """A setting's value on one line of at most so many characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return f"{text[: most - 1]}…" if len(text) > most else text


def _show_time(estimate: TimeEstimate, first: RolloutsBeforeStep1, out: Output) -> None:
    """Show an estimate of the run's time, part by part."""
    out.show(
        f"\ntime, at most, about, as if every completion were as long as allowed (measured with "
        f"{estimate.rows} completions of at most {estimate.tokens} tokens):"
    )
    if estimate.cpu_share is not None and estimate.cpu_share < BUSY:
        out.show(
            f"  the machine was busy: the measurement had {estimate.cpu_share:.0%} of a CPU core, "
            "so an idle one is faster"
        )
    for part, seconds, remark in (
        ("before step 1", estimate.before_step_1,
         f"{numbered(first.total, 'rollout')}{first.if_no_help}"),
        ("a step", estimate.step,
         f"{duration(estimate.rollouts)} rollouts, {duration(estimate.gradient)} the rest"),
        ("all evaluations", estimate.all_evaluations, numbered(estimate.evaluations, 'rollout')),
        ("the whole run", estimate.run,
         f"{numbered(estimate.steps, 'step')}, without early stopping"),
    ):  # fmt: skip
        out.show(f"  {part:<24}{duration(seconds):>10}  {remark}")


def prompts_of(plan: TokenPlan) -> str:
    """The prompt lengths that a plan's scored and trained tokens are counted with."""
    lengths = plan.lengths
    return f"with prompts of about {lengths.student:,} and {lengths.teacher:,} tokens at most"


def plan_table(plans: Mapping[str, TokenPlan], what: str = "method") -> Table:
    """Methods or arms side by side; every number of tokens is an upper bound."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = (what, "updates", "rollouts", "generated", "scored by\nteacher", "trained")
    for heading in (*headings, "evaluation"):
        left = heading == what
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for name, plan in plans.items():
        most = plan.most
        numbers = (plan.updates, most.rollouts, most.generated, most.teacher_scored)
        numbers += (most.trained, most.evaluation)  # type: ignore[assignment]
        table.add_row(Name(name), *(f"{number:,}" for number in numbers))
    return table


def _show_memory(memory: PlannedMemory | UnknownMemory, out: Output) -> None:
    """Show the memory part by part, and settings that fit if it is too much."""
    if isinstance(memory, UnknownMemory):
        reason = " for this architecture" if memory.reason is None else f": {memory.reason}"
        out.show(f"memory: not known{reason}")
        return
    device, prompts, plan = memory.device, memory.prompts, memory.plan
    where = (
        f"each of {memory.devices} devices, {device.backend}"
        if memory.devices > 1
        else (device.backend)
    )
    out.show(
        f"\nmemory on {where}, prompts of about {prompts.student} and {prompts.teacher} tokens at "
        "most"
    )
    if memory.devices > 1:
        held = "divided over the devices (full)" if memory.sharded else "whole on each (none)"
        out.show(f"  train.shard: the base is {held}")
    if device.sharing > 1 and device.limit is not None:
        out.show(
            f"  {device.sharing} processes share this machine's memory: {_size(device.limit)} each"
        )
    for part, size in plan.parts.items():
        out.show(f"  {part:<24}{_size(size):>10}")
    peak = f"  {'peak':<24}{_size(plan.peak):>10}"
    if device.limit is not None:
        peak += f"  {'fits in' if memory.fits else 'does not fit in'} {_size(device.limit)}"
    out.show(peak)
    if memory.fits is False:
        _show_changes(memory.nearest, out)


def _show_changes(changes: dict[str, Any] | None, out: Output) -> None:
    if changes is None:
        out.show("  no batch, rank or length makes it fit: choose a smaller or quantised model")
        return
    settings = " ".join(f"--set {key}={json.dumps(v)}" for key, v in changes.items())
    out.show(f"  nearest that fits: {settings}")


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
