"""The same training problems for all arms: those rows that every arm can use.

A row without a worked solution can be used where the teacher's reference is the answer, and not
where it is the solution. Without a test file of their own, the test problems are held out of these
rows, so that two arms could not even be paired. Where the needs of the arms differ, each arm's
config therefore names those of all (`data.usable_for`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.references import SOLUTION, columns_of, reads_solutions


@dataclass(frozen=True)
class CommonRows:
    """What the rows must have that all arms train on.

    Attributes:
        needed: "solution", and columns in braces.
        used: training problems of every arm; None where they are not at hand.
        left_out: rows that some arm could use and another not; None where they are not at hand.
    """

    needed: tuple[str, ...]
    used: int | None
    left_out: int | None

    def as_dict(self) -> dict[str, Any]:
        """The object `common_rows` of plan.json and comparison.json."""
        return asdict(self)


def needs_of(config: Config) -> tuple[str, ...]:
    """What a training row must have for a config: "solution", or columns in braces."""
    solution = methods.get(config).reads_solutions() or reads_solutions(config.teacher)
    columns = columns_of(config.teacher.reference)
    return (SOLUTION,) * solution + tuple("{" + column + "}" for column in columns)


def with_common_rows(configs: Mapping[str, Config]) -> dict[str, Config]:
    """The configs, each of which uses the rows that all of them can use."""
    needs = [needs_of(config) for config in configs.values()]
    every = tuple(dict.fromkeys(need for each in needs for need in each))
    if all(set(each) == set(every) for each in needs):
        return dict(configs)
    return {
        label: config.model_copy(
            update={"data": config.data.model_copy(update={"usable_for": every})}
        )
        for label, config in configs.items()
    }


def common_rows(
    configs: Mapping[str, Config], splits: Mapping[str, Splits | None]
) -> CommonRows | None:
    """What `with_common_rows` decided, with its counts.

    None where the needs are the same, or every row has all that is needed.

    Args:
        configs: as it gave them.
        splits: the problems of each.
    """
    needed = next(iter(configs.values())).data.usable_for
    if not needed:
        return None
    read = next(iter(splits.values()))
    if read is None:
        return CommonRows(needed, None, None)
    report = read.train.report
    left_out = report.no_solution + report.no_reference
    return CommonRows(needed, len(read.train.problems), left_out) if left_out else None


def sentence(rows: Mapping[str, Any]) -> str:
    """What a comparison says of the rows that its arms have in common.

    Args:
        rows: an object `common_rows`.
    """
    needed = " and ".join(need.strip("{}") for need in rows["needed"])
    if rows["used"] is None:
        return f"All arms train on the rows that have a value of: {needed}."
    left = f"{rows['left_out']:,} row{' is' if rows['left_out'] == 1 else 's are'}"
    return (
        f"All arms train on the same {rows['used']:,} problems; {left} left out of every arm, as "
        f"not every arm could use them (needed: {needed})."
    )
