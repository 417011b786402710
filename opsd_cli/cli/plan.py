"""What `--dry-run` shows: the config, the tokens and the memory that a run will need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.console import Output
from opsd_cli.config.resolve import to_yaml
from opsd_cli.config.schema import Config
from opsd_cli.errors import DataNotAtHand, OpsdError
from opsd_cli.planning import memory_plan
from opsd_cli.planning.model_shape import configured_shape
from opsd_cli.planning.planned_device import planned_device
from opsd_cli.planning.token_plan import TokenPlan, token_plan
from opsd_cli.problems.sources import Splits, load_splits

if TYPE_CHECKING:
    from rich.table import Table


def splits_at_hand(config: Config, out: Output) -> Splits | None:
    """The problems; None where they are on a hub that cannot be reached."""
    try:
        splits = load_splits(config)
    except DataNotAtHand as error:
        out.note(f"{error.message}: planned without it")
        return None
    for warning in splits.warnings:
        out.warn(warning)
    return splits


def show_plan(config: Config, splits: Splits | None, out: Output) -> None:
    """Show a run's config, its token plan and its memory plan."""
    plan = token_plan(config, splits)
    most = plan.most
    out.show(to_yaml(config).rstrip())
    sizes = ", ".join(f"{size} {name}" for name, size in plan.problems.items() if size)
    out.show(f"\nproblems: {sizes}{' at most' if splits is None else ''}")
    out.show(
        f"rollouts: {most.rollouts:,}, at most {most.generated:,} generated tokens; evaluation: "
        f"at most {plan.evaluation_rollouts:,} rollouts, {most.evaluation:,} tokens"
    )
    out.show(
        f"{prompts_of(plan)}: at most {most.teacher_scored:,} tokens scored by the teacher, "
        f"{most.trained:,} trained"
    )
    memory = _memory(config, splits, out)
    out.show("nothing was written")
    out.object(
        {
            "config": json.loads(config.model_dump_json()),
            "plan": plan.as_dict(),
            "memory": memory,
        }
    )


def prompts_of(plan: TokenPlan) -> str:
    """The prompt lengths that a plan's scored and trained tokens are counted with."""
    lengths = plan.lengths
    return f"with prompts of about {lengths.student:,} and {lengths.teacher:,} tokens at most"


def plan_table(plans: Mapping[str, TokenPlan]) -> Table:
    """Methods side by side; every number of tokens is an upper bound."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = ("method", "updates", "rollouts", "generated", "scored by\nteacher", "trained")
    for heading in (*headings, "evaluation"):
        left = heading == "method"
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for name, plan in plans.items():
        most = plan.most
        numbers = (plan.updates, most.rollouts, most.generated, most.teacher_scored)
        numbers += (most.trained, most.evaluation)  # type: ignore[assignment]
        table.add_row(name, *(f"{number:,}" for number in numbers))
    return table


def _memory(config: Config, splits: Splits | None, out: Output) -> dict[str, Any] | None:
    """Show the memory that the run needs, part by part, and settings that fit if it is too much.

    None where it cannot be computed: an unknown architecture, or a model that is not available.
    """
    try:
        device = planned_device(config)
        if device.note:
            out.note(device.note)
        shape = configured_shape(config)
    except OpsdError as error:
        out.show(f"memory: not known: {error.message}")
        return None
    if shape is None:
        out.show("memory: not known for this architecture")
        return None
    prompts = memory_plan.estimated(config, splits.train.problems if splits else [])

    def planned(changed: Config) -> memory_plan.MemoryPlan:
        return memory_plan.plan(changed, shape, prompts, device.memory, device.on_cpu)

    found, limit = planned(config), device.limit
    out.show(
        f"\nmemory on {device.backend}, prompts of about {prompts.student} and {prompts.teacher} "
        "tokens at most"
    )
    for part, size in found.parts.items():
        out.show(f"  {part:<24}{_size(size):>10}")
    answer: dict[str, Any] = {"parts": found.parts, "peak": found.peak, "limit": limit}
    if limit is None:
        out.show(f"  {'peak':<24}{_size(found.peak):>10}")
        return answer
    fits = found.peak <= limit
    out.show(
        f"  {'peak':<24}{_size(found.peak):>10}  {'fits in' if fits else 'does not fit in'} "
        f"{_size(limit)}"
    )
    if not fits:
        changes = memory_plan.nearest_that_fits(config, limit, lambda c: planned(c).peak)
        answer["nearest"] = changes
        _show_changes(changes, out)
    return answer


def _show_changes(changes: dict[str, Any] | None, out: Output) -> None:
    if changes is None:
        out.show("  no batch, rank or length makes it fit: choose a smaller or quantised model")
        return
    settings = " ".join(f"--set {key}={json.dumps(v)}" for key, v in changes.items())
    out.show(f"  nearest that fits: {settings}")


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
