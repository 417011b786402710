"""Finished runs of a fake policy as the arms of `opsd compare --vary`, with a watch set.

The arms learn at different speeds, which is what they differ in: their configs differ in one key,
which the fake policy ignores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from opsd_cli.comparison.curves import Curve, read_curve
from opsd_cli.comparison.variants import Variation, arms_of
from opsd_cli.config.schema import Config
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS, problem_set
from tests.support.training_runs import run_config

#: 120 test problems, and a watch set of 40.
WATCHED = replace(
    SPLITS, test=problem_set("test", range(60, 180)), watch=problem_set("watch", range(180, 220))
)
#: Gain of accuracy with each step, of the base and of the two arms of `VARY` in turn.
GAINS = (0.05, 0.12, 0.051)
VARY = ("divergence.kind=reverse_kl,jsd",)


def varied_runs(
    directory: Path,
    seeds: Sequence[int],
    gains: Sequence[float] = GAINS,
    texts: Sequence[str] = VARY,
) -> tuple[dict[str, list[Curve]], Variation]:
    """Train every arm with every seed; returns the curves by label, and the variation."""

    def config_with(assignments: Sequence[str]) -> Config:
        return run_config(
            "train.curve=true", "evaluation.samples=2", "preflight.enabled=false", *assignments
        )

    configs, variation = arms_of("opsd", texts, False, config_with)
    groups = {}
    for (label, config), gain in zip(configs.items(), gains, strict=True):
        groups[label] = [
            read_curve(_trained(directory / f"{folder}-s{seed}", config, seed, gain), label)
            for folder in [variation.folders.get(label, label)]
            for seed in seeds
        ]
    return groups, variation


def _trained(path: Path, config: Config, seed: int, gain: float) -> Path:
    config = config.model_copy(update={"seed": seed})
    with Run.create(path, config, {"packages": {}}) as run:
        train(FakePolicy(skill=0.3, gain=gain), WATCHED, run)
    return path
