"""The summary of a comparison: the object of `compare --json`, drawn by report and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from opsd_cli import methods
from opsd_cli.comparison.choices import choices
from opsd_cli.comparison.curves import COSTS, Curve
from opsd_cli.comparison.efficiency import REPLICATES, Efficiency
from opsd_cli.comparison.jobs import Tuned
from opsd_cli.comparison.scores import mean_score, score_difference
from opsd_cli.comparison.variants import Variation
from opsd_cli.formatting import json_safe

COMPARISON = "comparison.json"
GENERATED, WITH_TEACHER = "generated", "generated_and_scored"


def pair_of(names: Sequence[str]) -> tuple[str, str]:
    """The two groups that the headline compares: the first of a method under test, or the first
    named, against the first of a baseline method, or the next named."""

    def first(headline: str, among: Sequence[str]) -> str:
        """A group is named by its method, and by any other setting that distinguishes it."""
        for name in among:
            method = name.partition(" ")[0]
            if method in methods.METHODS and methods.method_class(method).headline == headline:
                return name
        return among[0]

    tested = first("tested", names)
    return tested, first("baseline", [name for name in names if name != tested])


def summarise(
    groups: Mapping[str, Sequence[Curve]],
    directory: Path,
    target: float | None = None,
    left_out: Mapping[str, str] | None = None,
    tuned: Mapping[str, Tuned] | None = None,
    replicates: int = REPLICATES,
    variation: Variation | None = None,
) -> dict[str, Any]:
    """All estimates of a comparison as one JSON object.

    Args:
        groups: comparable curves by label.
        directory: the comparison's.
        target: a fixed target accuracy; None as in `Efficiency`.
        left_out: directories that are not comparable, with the reason.
        tuned: the selected learning rate of each method.
        replicates: number of bootstrap replicates.
        variation: how the arms of `--vary` differ; its result is the key "choices".

    Returns:
        Accuracies, costs at the target (None if it is not reached), the headline ratio for each
        kind of cost, paired differences of best accuracy, and the methods that never improved and
        so do not determine the target.
    """
    efficiency = Efficiency(groups, target, replicates)
    one, other = pair_of(list(groups))
    to_target = {cost: efficiency.to_target(cost) for cost in COSTS}
    ratios = {cost: efficiency.ratio(one, other, cost).as_dict() for cost in COSTS}
    named = {
        cost: {"ratio": entry["value"], "low": entry["low"], "high": entry["high"],
               "counted": cost, "better": one, "than": other}
        for cost, entry in ratios.items()
    }  # fmt: skip
    by_method = {
        name: _method_summary(efficiency, name, curves, to_target)
        for name, curves in groups.items()
    }
    names = list(groups)
    found = None if variation is None else choices(groups, variation)
    return {
        **({} if found is None else {"choices": found}),
        "comparison_dir": str(directory),
        "seeds": sorted({curve.seed for curves in groups.values() for curve in curves}),
        "test_problems": int(next(iter(groups.values()))[0].correct_EP.shape[1]),
        "target_accuracy": efficiency.target,
        "target_from": f"the best that {efficiency.weakest} reaches" if target is None else "given",
        "never_improved": list(efficiency.never_improved),
        "methods": by_method,
        "token_efficiency": named[GENERATED],
        "token_efficiency_all": named[WITH_TEACHER],
        "efficiency": named,
        "differences": [
            {"one": a, "other": b, **_difference(efficiency, a, b), **_scores(groups, a, b)}
            for index, a in enumerate(names)
            for b in names[index + 1 :]
        ],
        "left_out": dict(left_out or {}),
        "tuned": {name: asdict(value) for name, value in (tuned or {}).items()},
    }


def _method_summary(
    efficiency: Efficiency,
    name: str,
    curves: Sequence[Curve],
    to_target: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """One method's accuracies, costs, settings and curve.

    Args:
        to_target: by kind of cost and method, the cost of the target accuracy, in tokens.
    """
    score = mean_score(curves)
    return {
        "method": curves[0].method,
        "accuracy": chosen_accuracy(efficiency, name),
        **({} if score is None else {"mean_score": score}),
        "base_accuracy": float(np.mean([curve.accuracy_E[0] for curve in curves])),
        "best": efficiency.best(name),
        "tokens_generated": float(np.mean([c.cost_E[GENERATED][-1] for c in curves])),
        "tokens_to_target": json_safe(to_target[GENERATED][name]),
        "cost_to_target": {cost: json_safe(found[name]) for cost, found in to_target.items()},
        "spent": {cost: float(np.mean([c.cost_E[cost][-1] for c in curves])) for cost in COSTS},
        "learning_rate": curves[0].config.optimizer.learning_rate,
        "per_question": curves[0].config.rollouts.per_question,
        "questions_per_step": curves[0].config.train.questions_per_step,
        "steps": int(curves[0].result["steps"]),
        "seeds": [curve.seed for curve in curves],
        "runs": [str(curve.directory) for curve in curves],
        "tokens": _mean_tokens(curves),
        "curve": _curve(efficiency, name),
    }


def chosen_accuracy(efficiency: Efficiency, name: str) -> dict[str, float]:
    """Test accuracy of the checkpoints selected on validation, with its 95% bootstrap interval."""
    method = efficiency.methods[name]
    chosen = np.stack(
        [
            curve.correct_EP[curve.steps.index(int(curve.result["best_step"]))]
            for curve in method.curves
        ]
    )
    drawn = [
        float(weights[name] @ chosen @ problems_P / (weights[name].sum() * problems_P.sum()))
        for weights, problems_P in efficiency.draws
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(chosen.mean()), "low": float(low), "high": float(high)}


def _difference(efficiency: Efficiency, one: str, other: str) -> dict[str, float]:
    value, low, high = efficiency.difference(one, other)
    return {"value": value, "low": low, "high": high}


def _scores(groups: Mapping[str, Sequence[Curve]], one: str, other: str) -> dict[str, Any]:
    """The difference of mean scores at the chosen checkpoints, where the grader gives numbers."""
    found = score_difference(groups[one], groups[other])
    return {} if found is None else {"mean_score": found}


def _mean_tokens(curves: Sequence[Curve]) -> dict[str, float]:
    kinds = curves[0].result["tokens"]
    return {kind: float(np.mean([curve.result["tokens"][kind] for curve in curves]))
            for kind in kinds}  # fmt: skip


def _curve(efficiency: Efficiency, name: str) -> dict[str, Any]:
    costs = {cost: efficiency.mean_curve(name, cost)[0].tolist() for cost in COSTS}
    accuracy = efficiency.mean_curve(name, GENERATED)[1].tolist()
    return {
        "steps": list(efficiency.methods[name].steps),
        "cost": costs,
        "accuracy": accuracy,
        "band": efficiency.band(name).tolist(),
    }
