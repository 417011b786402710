"""The arms of a new comparison from Python: configs, and variants of the first of them.

The command makes the same of `--methods`, `--vary`, `--grid` and `--halving`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_cli.comparison.halving import FRACTION, Halving, halving_of
from opsd_cli.comparison.session import begin, measured_alike, refuse_used, require_labels
from opsd_cli.comparison.variants import (
    Variation,
    arms_of_choices,
    require_measured_alike,
    require_variable,
)
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError
from opsd_cli.loading import load_config
from opsd_cli.tracking.listener import Messages

#: The methods that are compared where none is named.
COMPARED = ("opsd", "grpo")


@dataclass(frozen=True)
class NewArms:
    """What a comparison is begun with.

    Attributes:
        configs: label -> config, all measured alike.
        variation: how the arms differ; None without `vary`.
        halving: the rounds; None where every arm is trained in full.
    """

    configs: dict[str, Config]
    variation: Variation | None
    halving: Halving | None


@dataclass(frozen=True)
class Wanted:
    """The arguments of `opsd_cli.compare` that say which arms there are, with its names."""

    vary: Mapping[str, Sequence[Any]] | None = None
    grid: bool = False
    halving: bool = False
    halving_rounds: int | None = None
    halving_fraction: float | None = None
    watch: str | Path | None = None

    @property
    def anything(self) -> bool:
        """Whether one of them is given."""
        return self != Wanted()

    def require_new(self, new: bool) -> None:
        """Raise `UsageError` if one of them is given for a comparison that is not new."""
        if self.anything and not new:
            raise UsageError(
                "vary, grid, halving and watch are of a new comparison", "leave them out"
            )


def begin_new(
    what: Mapping[str, Config] | Config | None,
    wanted: Wanted,
    directory: Path | None,
    plan: tuple[int, bool, float | None],
    messages: Messages,
) -> Path:
    """Write the plan of a new comparison; returns its directory.

    Args:
        what: configs by label, or one; None for `COMPARED`, with `vary` for the first of them.
        plan: number of seeds, whether to tune, and the target accuracy.

    Raises: as `new_arms` and `opsd_cli.comparison.session.begin`.
    """
    seeds, tune, target = plan
    named = {what.method: what} if isinstance(what, Config) else what
    methods = COMPARED[:1] if wanted.vary else COMPARED
    new = new_arms(named or {m: load_config(method=m) for m in methods}, wanted, seeds, tune)
    if directory is not None:
        refuse_used(directory)
    return begin(new.configs, directory, seeds, tune, target, messages, new.variation, new.halving)


def new_arms(named: Mapping[str, Config], wanted: Wanted, seeds: int, tune: bool) -> NewArms:
    """The arms of a comparison of these configs.

    Args:
        named: label -> config; with `vary` the first is the base arm.
        seeds: runs of each.
        tune: whether each arm's learning rate is chosen first.

    Raises:
        UsageError: as for the flags of the command.
        ConfigError: a key or value is not valid.
    """
    if wanted.watch is not None:
        named = {k: load_config(c, **{"data.watch": str(wanted.watch)}) for k, c in named.items()}
    if wanted.grid and not wanted.vary:
        raise UsageError("grid combines the values of vary", "give vary={KEY: [A, B]}")
    variation = None
    if wanted.vary:
        label, base = next(iter(named.items()))
        arms, variation = _varied(label, base, wanted.vary, wanted.grid)
        named = {**arms, **{k: c for k, c in named.items() if k != label}}
    require_labels(
        [k for k in named if variation is None or k not in variation.changes], len(named)
    )
    alike = measured_alike(named, seeds)
    if variation is not None:
        require_measured_alike(alike, variation)
    return NewArms(alike, variation, _halving(alike, variation, wanted, tune))


def _varied(
    label: str, base: Config, vary: Mapping[str, Sequence[Any]], grid: bool
) -> tuple[dict[str, Config], Variation]:
    for key, values in vary.items():
        require_variable(key)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UsageError(f"vary[{key!r}] is not a list of values", "give [A, B]")
    choices = {key: [(key, value) for value in values] for key, values in vary.items()}
    return arms_of_choices(label, choices, grid, lambda chosen: load_config(base, **dict(chosen)))


def _halving(
    configs: Mapping[str, Config], variation: Variation | None, wanted: Wanted, tune: bool
) -> Halving | None:
    rounds, fraction = wanted.halving_rounds, wanted.halving_fraction
    if not wanted.halving:
        if rounds is not None or fraction is not None:
            raise UsageError("halving_rounds and halving_fraction are of halving", "halving=True")
        return None
    if tune:
        raise UsageError(
            "tune measures every arm in full, and halving ends the worse ones early",
            "leave out one of them; vary={'optimizer.learning_rate': [...]} chooses a rate",
        )
    if (rounds is not None and rounds < 1) or not 0 < (fraction or FRACTION) < 1:
        raise UsageError("halving has one round or more, and a fraction between 0 and 1", "")
    base = next(iter(configs)) if variation is None else variation.base
    return halving_of(configs, base, rounds, FRACTION if fraction is None else fraction)
