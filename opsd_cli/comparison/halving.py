"""Successive halving: which arms of a comparison go on, decided round by round on validation.

All arms are trained on the first seed. At the end of a round each has the same share of its own
steps behind it; the base arm and the best of the others go on from their checkpoints, and the rest
has ended. The arms that are left after the last round are trained to the end and on all seeds, and
only then is the test split sampled (`train.test_at_end`). Jamieson and Talwalkar (2016) describe
the method for choosing settings.

A round's decision follows from the runs' own `evaluations.jsonl` up to the step of the round, so
nothing else is stored: a comparison that is resumed decides the same again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsd_cli.comparison.crossed import crossed_mean
from opsd_cli.comparison.jobs import Job, comparison_jobs
from opsd_cli.config.schema import Config
from opsd_cli.errors import RunError, UsageError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import share
from opsd_cli.training import run_directory
from opsd_cli.training.schedule import validated

#: The share of the arms that goes on after a round; a round has 1 / FRACTION times the steps of the
#: one before.
FRACTION = 0.5
#: By default there are as many rounds as leave so many arms, the base among them.
LEFT = 3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Halving:
    """The rounds of a comparison.

    Attributes:
        base: label of the arm that is never ended.
        fraction: the share of the arms that goes on after a round.
        pauses: label -> the step of that arm at which each round ends; all of the same length.
    """

    base: str
    fraction: float
    pauses: Mapping[str, Sequence[int]]

    @property
    def rounds(self) -> int:
        """The number of rounds before the last, in which nothing is ended."""
        return len(self.pauses[self.base])

    def left_of(self, arms: int) -> int:
        """How many of so many arms go on after a round, where no two are equal."""
        return kept_of(arms, self.fraction)

    def as_dict(self) -> dict[str, Any]:
        """The object `halving` of plan.json."""
        pauses = {label: list(steps) for label, steps in self.pauses.items()}
        return {"base": self.base, "fraction": self.fraction, "pauses": pauses}

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any]) -> Halving | None:
        """The halving of a comparison's plan.json; None for one without."""
        return cls(**plan["halving"]) if plan.get("halving") else None


@dataclass(frozen=True)
class Ended:
    """An arm that was ended, and what the decision rests on: one seed's validation problems.

    Attributes:
        round: the round after which it was ended, from 1.
        step, steps: its step then, of how many.
        seed: of the run.
        validation: its best accuracy on validation by then (mean score where the grader gives
            numbers).
        than: the arm with the lowest validation of those that went on, the base not counted.
        than_validation: that arm's.
        difference: `validation` less `than_validation`, paired by problem, with a 95% interval
            over problems.
        base_difference: the same to the base arm.
        worse: whether the interval of `difference` lies below 0.
    """

    round: int
    step: int
    steps: int
    seed: int
    validation: float
    than: str
    than_validation: float
    difference: dict[str, float]
    base_difference: dict[str, float]
    worse: bool


@dataclass(frozen=True)
class Standing:
    """Where the rounds of a comparison are.

    Attributes:
        alive: the arms that were not ended.
        ended: label -> how, of those that were.
        round: the round that is still to be trained, from 1; None once all are decided.
        none_ended: round -> why it ended no arm, of the rounds that ended none.
    """

    alive: tuple[str, ...]
    ended: Mapping[str, Ended]
    round: int | None
    none_ended: Mapping[int, str] = field(default_factory=dict)


def kept_of(arms: int, fraction: float) -> int:
    """How many of so many arms go on: this share, rounded up, at least two."""
    return min(arms, max(2, math.ceil(round(arms * fraction, 9))))


def halving_of(
    configs: Mapping[str, Config],
    base: str,
    rounds: int | None = None,
    fraction: float = FRACTION,
) -> Halving:
    """The rounds of a comparison of these configs.

    Args:
        configs: label -> config, as `opsd_cli.comparison.session.measured_alike` gives them.
        base: label of the arm that is never ended.
        rounds: by default as many as leave `LEFT` arms or fewer and have validations to decide on.
        fraction: the share of the arms that goes on after a round.

    Raises:
        UsageError: fewer than three arms, or too few validations for these rounds.
    """
    if len(configs) < 3:
        raise UsageError(
            f"--halving ends the worse of several arms, and there are {len(configs)}",
            "give three arms or more (--vary KEY=A,B,C), or leave out --halving",
        )
    if kept_of(len(configs), fraction) == len(configs):
        raise UsageError(
            f"--halving-fraction {fraction:g} ends none of {len(configs)} arms",
            "give a smaller share, such as 0.5",
        )
    possible = min(len(validated(c.train)) - 1 for c in configs.values())
    if possible < max(1, rounds or 1):
        label, least = min(
            ((label, c.train) for label, c in configs.items()),
            key=lambda entry: len(validated(entry[1])),
        )
        raise UsageError(
            f"{label} has {len(validated(least)) - 1} validations before its last step, too few "
            f"for {rounds or 1} round{'s' * ((rounds or 1) > 1)} of --halving",
            f"lower train.evaluate_every, which is {least.evaluate_every} of {least.steps} steps"
            + (", or --halving-rounds" if (rounds or 1) > 1 else ""),
        )
    wanted = rounds or min(possible, _rounds_to(len(configs), fraction))
    pauses = {label: _pauses(config, wanted, fraction) for label, config in configs.items()}
    return Halving(base, fraction, pauses)


def _rounds_to(arms: int, fraction: float) -> int:
    rounds, left = 1, kept_of(arms, fraction)
    while left > LEFT and kept_of(left, fraction) < left:
        rounds, left = rounds + 1, kept_of(left, fraction)
    return rounds


def _pauses(config: Config, rounds: int, fraction: float) -> tuple[int, ...]:
    """The validated step nearest to each round's share of the steps; all are different."""
    steps, found = validated(config.train)[:-1], list[int]()
    for number in range(1, rounds + 1):
        wanted = config.train.steps * fraction ** (rounds - number + 1)
        last = len(steps) - (rounds - number)  # each later round needs one too
        free = [step for step in steps[:last] if not found or step > found[-1]]
        found.append(min(free, key=lambda step: (abs(step - wanted), step)))
    return tuple(found)


def validation_of(run: Path, step: int) -> Array:
    """A run's values of the validation problems, [P], at its best validation until a step.

    That before training is left out: it is the same for all arms. The values are shares of right
    samples, or mean scores where the grader gives numbers.

    Raises:
        RunError: there is no validation until this step.
    """
    rows = [
        np.asarray(row.get("scores") or row["correct"], np.float64)
        for row in read_rows(run / run_directory.EVALUATIONS)
        if row["split"] == "validation" and 0 < row["step"] <= step
    ]
    if not rows:
        raise RunError(
            f"{run} has lost its validation until step {step} ({run_directory.EVALUATIONS})",
            "bring the file back from a copy, or start the comparison again",
        )
    return max(rows, key=lambda value_P: float(value_P.mean()))


def decide(
    value_of: Mapping[str, Array], halving: Halving, number: int, configs: Mapping[str, Config]
) -> dict[str, Ended]:
    """The arms that are ended after a round.

    Arms that equal the last one that goes on go on too.

    Args:
        value_of: the values of the validation problems, [P], of each arm that is left.
        number: of the round, from 1.
        configs: label -> config, for their steps and seed.
    """
    mean_of = {label: float(value_P.mean()) for label, value_P in value_of.items()}
    others = sorted((label for label in value_of if label != halving.base), key=lambda label:
                    -mean_of[label])  # fmt: skip
    last = others[halving.left_of(len(value_of)) - 2]
    worse = [label for label in others if mean_of[label] < mean_of[last]]
    found = {}
    for label in (label for label in value_of if label in worse):
        difference = crossed_mean([value_of[label] - value_of[last]]).estimate()
        to_base = crossed_mean([value_of[label] - value_of[halving.base]]).estimate()
        found[label] = Ended(
            round=number,
            step=halving.pauses[label][number - 1],
            steps=configs[label].train.steps,
            seed=next(iter(configs.values())).seed,
            validation=mean_of[label],
            than=last,
            than_validation=mean_of[last],
            difference=difference.as_dict(),
            base_difference=to_base.as_dict(),
            worse=difference.high < 0,
        )
    return found


def why_none(value_of: Mapping[str, Array], halving: Halving) -> str:
    """Why a round ends no arm, a sentence without capital and full stop.

    Args:
        value_of: as `decide` takes it.
    """
    count = len(value_of)
    if halving.left_of(count) >= count:
        return f"{count} arms were left, and at least two go on"
    mean_of = {label: float(each_P.mean()) for label, each_P in value_of.items()}
    others = sorted((mean for label, mean in mean_of.items() if label != halving.base),
                    reverse=True)  # fmt: skip
    last = others[halving.left_of(count) - 2]
    equal = [label for label, mean in mean_of.items() if mean == last and label != halving.base]
    return (
        f"{', '.join(equal)} have the same accuracy on validation ({share(last)}), and none of "
        "equals is ended"
    )


def left_out_of(plan: Mapping[str, Any]) -> dict[str, int]:
    """Arms whose preflight failed -> the round that they began no run in; from a plan.json."""
    return {label: how["round"] for label, how in plan.get("refused", {}).items()}


def round_jobs(
    halving: Halving,
    number: int,
    alive: Sequence[str],
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    folders: Mapping[str, str],
) -> list[Job]:
    """The runs of a round: the arms that are left, on the first seed, until the round's step."""
    left = {label: configs[label] for label in alive}
    return [
        Job(job.name, job.method, job.config, halving.pauses[job.method][number - 1])
        for job in comparison_jobs(left, seeds[:1], folders, test_at_end=True)
    ]


def standing(
    directory: Path,
    halving: Halving,
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    folders: Mapping[str, str],
    left_out: Mapping[str, int] | None = None,
) -> Standing:
    """Where the rounds are, from the run directories; decides each round that was trained.

    Args:
        left_out: as `left_out_of` gives them; a round before theirs is decided with them.
    """
    alive, ended, none = tuple(configs), dict[str, Ended](), dict[int, str]()
    out = left_out or {}
    for number in range(1, halving.rounds + 1):
        alive = tuple(label for label in alive if out.get(label, number + 1) > number)
        jobs = round_jobs(halving, number, alive, configs, seeds, folders)
        if not all(job.done(directory) for job in jobs):
            return Standing(alive, ended, number, none)
        values = {job.method: validation_of(directory / job.name, job.until) for job in jobs}
        found = decide(values, halving, number, configs)
        if not found:
            none[number] = why_none(values, halving)
        ended |= found
        alive = tuple(label for label in alive if label not in found)
    return Standing(tuple(label for label in alive if label not in out), ended, None, none)


def phase_jobs(
    directory: Path,
    halving: Halving,
    configs: Mapping[str, Config],
    seeds: Sequence[int],
    folders: Mapping[str, str],
    left_out: Mapping[str, int] | None = None,
) -> list[Job]:
    """The runs of the round that is to be trained, or of the last one; then those that ended."""
    now = standing(directory, halving, configs, seeds, folders, left_out)
    left = {label: configs[label] for label in now.alive}
    if now.round is None:
        jobs = comparison_jobs(left, seeds, folders, test_at_end=True)
    else:
        jobs = round_jobs(halving, now.round, now.alive, configs, seeds, folders)
    for label, how in now.ended.items():
        jobs += round_jobs(halving, how.round, [label], configs, seeds, folders)
    return jobs


def summary_of(now: Standing, halving: Halving, seeds: Sequence[int]) -> dict[str, Any]:
    """The object `halving` of comparison.json."""
    return {
        "base": halving.base,
        "fraction": halving.fraction,
        "rounds": halving.rounds,
        "pauses": {label: list(steps) for label, steps in halving.pauses.items()},
        "seed": seeds[0],
        "went_on": list(now.alive),
        "ended": {label: asdict(how) for label, how in now.ended.items()},
        "none_ended": {str(number): why for number, why in now.none_ended.items()},
    }
