"""Which choice helped: each arm of `opsd compare --vary` against the base arm, in numbers.

The outcome that decides is the test accuracy of the checkpoint that validation chose, paired with
the base arm's by seed and problem (`opsd_cli.comparison.crossed`). With K arms there are K
comparisons, so the verdicts use Holm's adjusted p-values; the intervals are those of one comparison
each. Everything else (the last step's accuracy, pass@k, tokens, lengths, hedging words, the change
on the watch set) is reported and gives no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opsd_cli.comparison.crossed import crossed_mean, holm_adjusted, seed_mean
from opsd_cli.comparison.curves import Curve
from opsd_cli.comparison.scores import mean_score, score_difference
from opsd_cli.comparison.variants import Variation
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.statistics import CONFIDENCE
from opsd_cli.training import run_directory

HELPED, HURT, UNKNOWN = "helped", "hurt", "cannot be told apart"
#: Values of a run at its best step, by their names in the JSON object.
OF_A_RUN = ("mean_tokens", "hedges_per_100_words", "generated")
Rows = Mapping[tuple[str, int], Mapping[str, Any]]


def choices(groups: Mapping[str, Sequence[Curve]], variation: Variation) -> dict[str, Any] | None:
    """The object `choices` of a comparison's summary.

    Args:
        groups: the compared curves by label.
        variation: what the arms differ in.

    Returns:
        The base, its values of the varied keys, the number of comparisons, and each arm's outcomes;
        None if the base or every other arm was left out.
    """
    labels = [label for label in variation.changes if label in groups]
    if variation.base not in groups or not labels:
        return None
    outcomes = {
        label: _Outcomes(groups[label], [_rows(curve) for curve in groups[label]])
        for label in (variation.base, *labels)
    }
    base = outcomes[variation.base]
    arms = {label: each.summary() for label, each in outcomes.items()}
    level = (1.0 - CONFIDENCE) / len(labels)
    best = [outcomes[label].difference(base, "best") for label in labels]
    adjusted = holm_adjusted([difference.p_value for difference in best])
    for label, difference, p_adjusted in zip(labels, best, adjusted, strict=True):
        decided = p_adjusted <= 1.0 - CONFIDENCE
        arms[label] |= {
            "changes": dict(variation.changes[label]),
            "difference": {
                "best": difference.estimate().as_dict() | {"p": difference.p_value},
                "last": outcomes[label].difference(base, "last").estimate().as_dict(),
                "both_untrained": base.untrained and outcomes[label].untrained,
                **outcomes[label].paired(base),
                **_given("mean_score", score_difference(groups[label], groups[variation.base])),
            },
            "p_adjusted": p_adjusted,
            "verdict": (HELPED if difference.value > 0 else HURT) if decided else UNKNOWN,
            "seeds_needed": None if decided else difference.seeds_needed(level),
            "detectable": difference.detectable(level),
        }
    return {
        "base": variation.base,
        "base_values": dict(variation.base_values),
        "comparisons": len(labels),
        "arms": arms,
    }


def variation_of(found: Mapping[str, Any]) -> Variation:
    """The variation of a stored object `choices`, without folders."""
    changes = {
        label: arm["changes"] for label, arm in found["arms"].items() if label != found["base"]
    }
    return Variation(found["base"], found["base_values"], changes, {})


def _given(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}


def _rows(curve: Curve) -> Rows:
    """A run's evaluations by split and step."""
    rows = read_rows(curve.directory / run_directory.EVALUATIONS)
    return {(row["split"], row["step"]): row for row in rows}


class _Outcomes:
    """What an arm's runs measured, at their best and their last step."""

    def __init__(self, curves: Sequence[Curve], rows: Sequence[Rows]) -> None:
        self.curves = sorted(curves, key=lambda curve: curve.seed)
        self.rows = [rows[list(curves).index(curve)] for curve in self.curves]
        self.samples = curves[0].config.evaluation.samples

    @property
    def untrained(self) -> bool:
        """Whether every run kept the untrained model: its best step is 0."""
        return all(curve.result["best_step"] == 0 for curve in self.curves)

    def _step(self, curve: Curve, when: str) -> int:
        return int(curve.result["best_step"]) if when == "best" else curve.steps[-1]

    def correct(self, when: str) -> np.ndarray:
        """Each test problem's share of right samples at a step, [S, P]."""
        return np.stack(
            [curve.correct_EP[curve.steps.index(self._step(curve, when))] for curve in self.curves]
        )

    def watched(self) -> np.ndarray | None:
        """The change of each watch problem's share from before training to the best step, [S, P].

        None where a run has no watch set.
        """
        changes = []
        for curve, rows in zip(self.curves, self.rows, strict=True):
            ends = [rows.get(("watch", step)) for step in (0, self._step(curve, "best"))]
            if ends[0] is None or ends[1] is None:
                return None
            changes.append(np.subtract(ends[1]["correct"], ends[0]["correct"]))
        return np.stack(changes)

    def of_runs(self, name: str) -> list[float] | None:
        """A value of each run, one of `OF_A_RUN`; None where a run does not have it."""
        if name == "generated":
            return [float(curve.cost_E[name][-1]) for curve in self.curves]
        found = [
            rows.get(("test", self._step(curve, "best")), {}).get(name)
            for curve, rows in zip(self.curves, self.rows, strict=True)
        ]
        return None if None in found else [float(value) for value in found]  # type: ignore[arg-type]

    def summary(self) -> dict[str, Any]:
        """The arm's own outcomes, each with a 95% interval."""
        best = self.correct("best")
        watched = self.watched()
        measured = {name: self.of_runs(name) for name in OF_A_RUN}
        return {
            "accuracy": {
                when: crossed_mean(self.correct(when)).estimate(0.0).as_dict()
                for when in ("best", "last")
            },
            # A share above 0 of all k samples is at least one right sample.
            "pass_at": {
                "k": self.samples,
                **crossed_mean(best > 0).estimate(0.0).as_dict(),
            },
            "watch_change": None if watched is None else crossed_mean(watched).estimate().as_dict(),
            **{name: None if each is None else seed_mean(each) for name, each in measured.items()},
            **_given("mean_score", mean_score(self.curves)),
        }

    def difference(self, base: _Outcomes, when: str) -> Any:
        """Accuracy minus the base arm's, paired by seed and problem."""
        mine, theirs = _of_same_seeds(self, base)
        return crossed_mean(self.correct(when)[mine] - base.correct(when)[theirs])

    def paired(self, base: _Outcomes) -> dict[str, Any]:
        """The other outcomes minus the base arm's."""
        mine, theirs = _of_same_seeds(self, base)
        found: dict[str, Any] = {
            "pass_at": crossed_mean(
                (self.correct("best")[mine] > 0).astype(float)
                - (base.correct("best")[theirs] > 0).astype(float)
            ).estimate().as_dict()
        }  # fmt: skip
        watched, before = self.watched(), base.watched()
        if watched is not None and before is not None:
            change = crossed_mean(watched[mine] - before[theirs])
            found["watch_change"] = change.estimate(-2.0, 2.0).as_dict()
        for name in OF_A_RUN:
            one, other = self.of_runs(name), base.of_runs(name)
            if one is not None and other is not None:
                pairs = zip(mine, theirs, strict=True)
                found[name] = seed_mean([one[i] - other[j] for i, j in pairs])
        return found


def _of_same_seeds(one: _Outcomes, other: _Outcomes) -> tuple[list[int], list[int]]:
    """The places of those runs of either arm whose seed the other has too, in the same order."""
    places = [{curve.seed: n for n, curve in enumerate(arm.curves)} for arm in (one, other)]
    seeds = [seed for seed in places[0] if seed in places[1]]
    return [places[0][seed] for seed in seeds], [places[1][seed] for seed in seeds]
