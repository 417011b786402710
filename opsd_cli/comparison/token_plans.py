"""Upper bounds of a comparison's tokens: what `opsd compare --dry-run` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opsd_cli.comparison.jobs import prepared, tuning_jobs
from opsd_cli.config.schema import Config
from opsd_cli.planning.available_splits import available_splits_by_label
from opsd_cli.planning.token_plan import TokenPlan, token_plan
from opsd_cli.problems.sources import Splits
from opsd_cli.tracking.listener import Messages


@dataclass(frozen=True)
class ComparisonPlan:
    """Upper bounds of what a comparison spends.

    Attributes:
        runs: one run of every compared method or arm.
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
    messages: Messages,
) -> ComparisonPlan:
    """The plan of the compared methods or arms.

    Args:
        configs: method -> config, as `opsd_cli.comparison.session.measured_alike` gives them.

    Raises:
        DataError: problems can be reached and not be read.
    """
    compared = dict(configs)
    splits = available_splits_by_label(compared, messages)
    return ComparisonPlan(
        {name: token_plan(prepared(each), splits[name]) for name, each in compared.items()},
        tuple(token_plan(job.config, splits[job.method]) for job in tuning_jobs(compared)),
        splits,
    )
