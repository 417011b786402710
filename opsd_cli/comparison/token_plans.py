"""Upper bounds of a comparison's tokens: what `opsd compare --dry-run` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opsd_cli.comparison.jobs import evaluated_alike, prepared, tuning_jobs
from opsd_cli.config.schema import Config
from opsd_cli.methods import METHODS
from opsd_cli.planning.available_splits import available_splits_by_label
from opsd_cli.planning.token_plan import TokenPlan, token_plan
from opsd_cli.problems.sources import Splits
from opsd_cli.tracking.listener import Messages


@dataclass(frozen=True)
class ComparisonPlan:
    """Upper bounds of what a comparison spends.

    Attributes:
        runs: one run of every method, also of those that are not compared.
        tuning: each run of `--tune`.
        splits: the problems of each compared method; None where they are not at hand.
    """

    runs: dict[str, TokenPlan]
    tuning: tuple[TokenPlan, ...]
    splits: dict[str, Splits | None]

    @property
    def tuning_generated(self) -> int:
        """Tokens that all runs of `--tune` generate at most."""
        return sum(plan.most.generated for plan in self.tuning)


def comparison_plan(
    configs: Mapping[str, Config],
    config_of: Callable[[str], Config] | None,
    messages: Messages,
) -> ComparisonPlan:
    """The plan of the compared methods, and of every other as it would be measured beside them.

    Args:
        configs: method -> config, as `opsd_cli.comparison.session.measured_alike` gives them.
        config_of: gives the config of a method that is not among them; None plans no other.

    Raises:
        DataError: problems can be reached and not be read.
    """
    compared = dict(configs)
    splits = available_splits_by_label(compared, messages)
    every = dict(compared)
    for name in METHODS:
        if config_of is not None and name not in compared:
            every[name] = evaluated_alike({**compared, name: config_of(name)})[name]
    first = next(iter(splits.values()))
    return ComparisonPlan(
        {name: token_plan(prepared(c), splits.get(name, first)) for name, c in every.items()},
        tuple(token_plan(job.config, splits[job.method]) for job in tuning_jobs(compared)),
        splits,
    )
