"""`opsd compare --halving`: its rounds, and what they take at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opsd_cli.comparison.halving import FRACTION, Halving, halving_of
from opsd_cli.comparison.planned_tokens import HalvingCost
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table


def halving_of_flags(
    configs: Mapping[str, Config],
    base: str,
    wanted: bool,
    rounds: int | None,
    fraction: float | None,
    tune: bool,
) -> Halving | None:
    """The rounds that the flags ask for; None without `--halving`.

    Raises:
        UsageError: flags that do not go together, or rounds that these arms cannot have.
    """
    if not wanted:
        if rounds is not None or fraction is not None:
            flag = "--halving-rounds" if rounds is not None else "--halving-fraction"
            raise UsageError(f"{flag} is of the rounds of --halving", "give --halving too")
        return None
    if tune:
        raise UsageError(
            "--tune measures every arm in full, and --halving ends the worse ones early",
            "leave out one of them; --vary optimizer.learning_rate=A,B,C --halving chooses a rate",
        )
    return halving_of(configs, base, rounds, FRACTION if fraction is None else fraction)


def cost_sentence(cost: HalvingCost) -> str:
    """The rounds' cost beside that of every arm on every seed."""
    return (
        f"--halving: at most {cost.generated:,} generated and {cost.evaluation:,} evaluation "
        f"tokens, against {cost.full_generated:,} and {cost.full_evaluation:,} of all "
        f"{cost.full_runs} runs: {cost.saving:.0%} less (more where arms are equal on validation, "
        "as none of equals is ended)"
    )


def rounds_table(cost: HalvingCost) -> Table:
    """A row for each round: arms, until which step, runs, tokens at most."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("round", "arms", "until step", "runs", "generated", "evaluation"):
        table.add_column(heading, justify="left" if heading == "round" else "right")
    for number, each in enumerate(cost.rounds, 1):
        steps = sorted(set(each.steps.values()))
        until = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        last = number == len(cost.rounds)
        table.add_row(
            "last, all seeds" if last else str(number),
            str(each.arms),
            until,
            str(each.runs),
            f"{each.generated:,}",
            f"{each.evaluation:,}",
        )
    return table
