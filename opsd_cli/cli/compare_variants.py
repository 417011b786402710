"""`opsd compare --vary`: its arms, what they cost, and the lines that say which choice helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from opsd_cli.cli.folding import Name
from opsd_cli.cli.request import Request
from opsd_cli.comparison.choice_words import (
    base_text,
    difference_text,
    others,
    verdict_text,
)
from opsd_cli.comparison.variants import Variation, arms_of, change_text
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError
from opsd_cli.formatting import percent
from opsd_cli.planning.token_plan import TokenPlan
from opsd_cli.statistics import Estimate

if TYPE_CHECKING:
    from rich.table import Table

#: The key that `--tune` chooses.
RATE = "optimizer.learning_rate"


@dataclass(frozen=True)
class Cost:
    """What the arms beside the base add to a comparison, at most.

    Attributes:
        runs, generated, evaluation: of all runs.
        added_runs, added_generated, added_evaluation: those of them that the variation adds.
    """

    runs: int
    generated: int
    evaluation: int
    added_runs: int
    added_generated: int
    added_evaluation: int

    @property
    def sentence(self) -> str:
        """The cost in words."""
        return (
            f"{self.runs} runs: at most {self.generated:,} generated and {self.evaluation:,} "
            f"evaluation tokens; of these, --vary adds {self.added_runs} runs with "
            f"{self.added_generated:,} and {self.added_evaluation:,}"
        )


def varied(
    request: Request, method: str, texts: Sequence[str], grid: bool, tune: bool
) -> tuple[dict[str, Config], Variation]:
    """The configs of the arms of `--vary`, the base first, and how they differ.

    Args:
        method: the varied one.

    Raises:
        UsageError, ConfigError: as `opsd_cli.comparison.variants.arms_of`; or `--tune` would choose
            the key that is varied.
    """

    def config_with(assignments: Sequence[str]) -> Config:
        flags = {**request.flags, "method": method}
        more = replace(request, assignments=(*request.assignments, *assignments), flags=flags)
        return more.config()

    configs, variation = arms_of(method, texts, grid, config_with)
    if tune and RATE in variation.base_values:
        raise UsageError(
            f"--tune chooses {RATE}, and --vary gives it values", "leave out one of them"
        )
    return configs, variation


def cost_of_arms(plans: Mapping[str, TokenPlan], variation: Variation, seeds: int) -> Cost:
    """The cost of all compared runs, and what the variation adds.

    Args:
        plans: of one run of each compared config, by label.
    """
    added = [plans[label].most for label in variation.changes]
    every = [plan.most for plan in plans.values()]
    return Cost(
        len(every) * seeds,
        seeds * sum(most.generated for most in every),
        seeds * sum(most.evaluation for most in every),
        len(added) * seeds,
        seeds * sum(most.generated for most in added),
        seeds * sum(most.evaluation for most in added),
    )


def choices_table(choices: Mapping[str, Any], seeds: int) -> Table:
    """A row for each choice: accuracy, difference to the base, verdict."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("choice", "accuracy", "against the base", "verdict"):
        table.add_column(heading)
    base = choices["arms"][choices["base"]]
    table.add_row(
        Name(base_text(choices)), percent(Estimate(**base["accuracy"]["best"])), "", "the base"
    )
    for arm in others(choices).values():
        table.add_row(
            Name(change_text(arm["changes"])),
            percent(Estimate(**arm["accuracy"]["best"])),
            difference_text(arm),
            verdict_text(arm, seeds),
        )
    return table
