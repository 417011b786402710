"""What a comparison was planned to spend, and what it spent, by arm; and the plan of its rounds.

The bound of a plan takes every completion as long as it may get. The estimate is the same count
with completions of the mean length that the model had on validation before training, which every
run measures; prompts have the greatest length in both. Neither allows for changes of length by
training, or for steps that were trained twice after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from opsd_cli.comparison.curves import Curve
from opsd_cli.comparison.halving import Halving
from opsd_cli.comparison.jobs import prepared
from opsd_cli.config.schema import Config
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import count
from opsd_cli.planning.token_plan import Lengths, TokenPlan, plan_of_sizes
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.training import run_directory

#: Kinds of tokens that are compared, by their keys in a ledger.
KINDS = ("generated", "evaluation", "teacher_scored", "trained")


def stored_plan(plans: Mapping[str, TokenPlan]) -> dict[str, Any]:
    """The object `planned` of plan.json: what `spent_of` plans again with."""
    return {
        label: {"problems": plan.problems, "lengths": asdict(plan.lengths)}
        for label, plan in plans.items()
    }


def spent_of(
    groups: Mapping[str, Sequence[Curve]], planned: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Tokens of a mean run of each arm, planned and spent: the object `planned` of a summary.

    Args:
        groups: the compared curves by label.
        planned: as `stored_plan` gave it.

    Returns:
        Label -> kind of tokens -> "at_most", "estimated" (None where no validation was measured
        before training) and "spent". Arms without a plan are left out.
    """
    found = {}
    for label, curves in groups.items():
        if label not in planned:
            continue
        sizes = planned[label]["problems"]
        lengths = Lengths(**planned[label]["lengths"])
        config = curves[0].config
        most = plan_of_sizes(config, sizes, lengths).most
        length = _length_before(curves)
        estimate = None
        if length is not None:
            estimate = plan_of_sizes(_of_length(config, length), sizes, lengths).most
        found[label] = {
            kind: {
                "at_most": getattr(most, kind),
                "estimated": None if estimate is None else getattr(estimate, kind),
                "spent": float(np.mean([curve.result["tokens"][kind] for curve in curves])),
            }
            for kind in KINDS
        }
    return found


def planned_sentence(planned: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Planned and spent tokens of a mean run of every arm, added up over the arms.

    Args:
        planned: as `spent_of` gave it.
    """
    parts = []
    for kind, name in (("generated", "generated"), ("evaluation", "evaluation")):
        found = [arm[kind] for arm in planned.values()]
        most, spent = (sum(each[key] for each in found) for key in ("at_most", "spent"))
        estimates = [each["estimated"] for each in found if each["estimated"] is not None]
        about = f", {count(sum(estimates))} estimated" if len(estimates) == len(found) else ""
        parts.append(f"{count(spent)} {name} tokens of {count(most)} planned at most{about}")
    return f"spent by one run of each arm: {'; '.join(parts)}"


def _length_before(curves: Sequence[Curve]) -> float | None:
    """Mean completion length on validation before training, in tokens."""
    found = [
        row["mean_tokens"]
        for curve in curves
        for row in read_rows(curve.directory / run_directory.EVALUATIONS)
        if row["split"] == "validation" and row["step"] == 0
    ]
    return float(np.mean(found)) if found else None


def _of_length(config: Config, length: float) -> Config:
    """The config with completions of this length, rounded up."""
    tokens = max(1, int(np.ceil(length)))
    sampling = {"max_new_tokens": min(tokens, config.sampling.max_new_tokens)}
    evaluation = {"max_new_tokens": tokens}
    return config.model_copy(
        update={
            "sampling": config.sampling.model_copy(update=sampling),
            "evaluation": config.evaluation.model_copy(update=evaluation),
        }
    )


@dataclass(frozen=True)
class RoundCost:
    """What a round of `--halving` takes at most.

    Attributes:
        arms: that are trained in it.
        runs: whose steps it trains.
        steps: label -> the step that each arm reaches on the first seed.
        generated, evaluation: tokens.
    """

    arms: int
    runs: int
    steps: Mapping[str, int]
    generated: int
    evaluation: int


@dataclass(frozen=True)
class HalvingCost:
    """What a comparison with `--halving` takes at most, beside the same arms without it.

    Attributes:
        rounds: the last is that of all seeds.
        generated, evaluation: of all rounds.
        full_runs, full_generated, full_evaluation: of every arm on every seed.
    """

    rounds: tuple[RoundCost, ...]
    generated: int
    evaluation: int
    full_runs: int
    full_generated: int
    full_evaluation: int

    @property
    def saving(self) -> float:
        """The share of the generated and evaluation tokens that is saved."""
        full = self.full_generated + self.full_evaluation
        return 1.0 - (self.generated + self.evaluation) / full if full else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The object `cost_at_most` of a plan."""
        return asdict(self) | {"saving": self.saving}


def halving_cost(
    halving: Halving, configs: Mapping[str, Config], plans: Mapping[str, TokenPlan], seeds: int
) -> HalvingCost:
    """Upper bounds of the rounds. Which arms go on is not known: the most expensive are counted.

    Args:
        configs: of the arms, by label.
        plans: of one run of each.
        seeds: runs of each arm in the last round.
    """
    full = {label: plans[label].most for label in configs}
    rounds, arms, before = list[RoundCost](), len(configs), dict[str, TokenLedger]()
    for number in range(halving.rounds):
        steps = {label: halving.pauses[label][number] for label in configs}
        spent = {label: _until(configs[label], plans[label], steps[label]) for label in configs}
        rounds.append(_round(halving.base, arms, arms, steps, spent, before))
        before, arms = spent, halving.left_of(arms)
    every = {label: _times(ledger, seeds) for label, ledger in full.items()}
    steps = {label: config.train.steps for label, config in configs.items()}
    rounds.append(_round(halving.base, arms, arms * seeds, steps, every, before))
    return HalvingCost(
        tuple(rounds),
        sum(each.generated for each in rounds),
        sum(each.evaluation for each in rounds),
        len(configs) * seeds,
        seeds * sum(ledger.generated for ledger in full.values()),
        seeds * sum(ledger.evaluation for ledger in full.values()),
    )


def _times(ledger: TokenLedger, seeds: int) -> TokenLedger:
    return TokenLedger(**{kind: seeds * number for kind, number in asdict(ledger).items()})


def _until(config: Config, plan: TokenPlan, step: int) -> TokenLedger:
    """What a run has spent at most by a step, without the test split, which waits for the end."""
    config = prepared(config, test_at_end=True)
    train = config.train.model_copy(update={"steps": step, "curve": False})
    sizes = {**plan.problems, "test": 0, "watch": 0}
    most = plan_of_sizes(config.model_copy(update={"train": train}), sizes, plan.lengths).most
    watched = (plan.problems.get("watch") or 0) * config.evaluation.samples
    longest = config.evaluation.max_new_tokens or config.sampling.max_new_tokens
    return most + TokenLedger(evaluation=watched * longest)


def _round(
    base: str,
    arms: int,
    runs: int,
    steps: Mapping[str, int],
    spent: Mapping[str, TokenLedger],
    before: Mapping[str, TokenLedger],
) -> RoundCost:
    """A round of so many arms, from what each has spent by its end and by its beginning."""

    def most(value: Callable[[TokenLedger], int]) -> int:
        new = {
            label: value(spent[label]) - (value(before[label]) if before else 0) for label in spent
        }
        others = sorted((new[label] for label in new if label != base), reverse=True)
        return new[base] + sum(others[: arms - 1])

    return RoundCost(
        arms,
        runs,
        dict(steps),
        most(lambda ledger: ledger.generated),
        most(lambda ledger: ledger.evaluation),
    )
