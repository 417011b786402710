"""Token efficiency on curves of known answer: isotonic fit, cost to a target, ratio, labels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_cli.comparison.curves import COSTS, Curve, comparable, cost_of, labelled
from opsd_cli.comparison.efficiency import Efficiency, cost_to_reach, monotone
from opsd_cli.comparison.session import Comparison
from opsd_cli.comparison.summary import pair_of, summarise
from opsd_cli.comparison.verdict import ratio_of, title, tokens_needed, tokens_spent, verdict
from opsd_cli.config.schema import Config
from opsd_cli.errors import GateNotMet, UsageError
from opsd_cli.formatting import json_safe, times

values = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(np.array)


def curve(
    label: str, accuracy: list[float], spent: list[float], seed: int = 0, problems: int = 200,
    noise: float = 0.0, **basis: str,
) -> Curve:  # fmt: skip
    """A run with these accuracies at these costs."""
    random = np.random.default_rng([seed, len(label)])
    difficulty = (np.arange(problems) + 0.5) / problems
    chance = np.array(accuracy)[:, None]
    flips = random.random((len(accuracy), problems)) < noise
    correct = (difficulty[None] < chance) ^ flips
    cost = np.array(spent, float)
    return Curve(
        label=label, method=label, seed=seed, directory=Path(f"{label}-{seed}"),
        steps=tuple(range(len(accuracy))),
        cost_E={name: cost * (3 if name == "generated_and_scored" else 1) for name in COSTS},
        correct_EP=correct.astype(float), basis={"base model": "m", **basis},
        config=Config(method=label, seed=seed),  # type: ignore[arg-type]
        result={"best_step": len(accuracy) - 1, "steps": len(accuracy) - 1,
                "tokens": {"generated": cost[-1]}},
    )  # fmt: skip


FAST = [0.5, 0.7, 0.9, 0.95]
SLOW = [0.5, 0.6, 0.7, 0.8]


def groups(noise: float = 0.0) -> dict[str, list[Curve]]:
    return {
        "opsd": [curve("opsd", FAST, [0, 10, 20, 30], seed, noise=noise) for seed in range(3)],
        "grpo": [curve("grpo", SLOW, [0, 100, 200, 300], seed, noise=noise) for seed in range(3)],
    }


def summary_of(compared: dict[str, list[Curve]], target: float | None = None) -> dict[str, Any]:
    return summarise(compared, Path("c"), target, replicates=200)


@given(values)
def test_isotonic_fit_is_monotone_keeps_its_mean_and_is_level_after_the_peak(y: np.ndarray) -> None:
    fitted = monotone(y)
    peak = int(np.argmax(y))
    assert (np.diff(fitted) >= -1e-12).all()
    assert fitted[: peak + 1].sum() == pytest.approx(y[: peak + 1].sum(), abs=1e-9)
    assert (fitted[peak:] == fitted[peak]).all()


@given(values)
def test_isotonic_fit_has_the_least_squared_distance(y: np.ndarray) -> None:
    rising = y[: int(np.argmax(y)) + 1]
    fitted = monotone(y)[: len(rising)]
    distance = ((fitted - rising) ** 2).sum()
    for other in (np.maximum.accumulate(rising), np.full_like(rising, rising.mean())):
        assert distance <= ((other - rising) ** 2).sum() + 1e-9


def test_isotonic_fit_of_a_monotone_curve_is_itself() -> None:
    np.testing.assert_array_equal(monotone(np.array([0.1, 0.4, 0.4, 0.9])), [0.1, 0.4, 0.4, 0.9])


@given(values)
def test_isotonic_fit_reaches_the_highest_point(y: np.ndarray) -> None:
    """So a target below a curve's highest point is never reported as not reached."""
    assert monotone(y)[-1] == pytest.approx(y.max(), abs=1e-12)


def test_isotonic_fit_ignores_a_collapse_after_the_peak() -> None:
    fitted = monotone(np.array([0.5, 0.7, 0.9, 0.2, 0.1]))
    np.testing.assert_allclose(fitted, [0.5, 0.7, 0.9, 0.9, 0.9])


def test_cost_to_reach_interpolates_between_points() -> None:
    cost, fitted = np.array([0.0, 10.0, 30.0]), np.array([0.5, 0.6, 0.8])
    assert cost_to_reach(0.55, cost, fitted) == pytest.approx(5)
    assert cost_to_reach(0.7, cost, fitted) == pytest.approx(20)
    assert cost_to_reach(0.8, cost, fitted) == pytest.approx(30)
    assert cost_to_reach(0.5, cost, fitted) == 0
    assert math.isinf(cost_to_reach(0.81, cost, fitted))


def test_token_efficiency_ratio_of_known_curves() -> None:
    found = Efficiency(groups(), replicates=50)
    # GRPO's best is 80%, which it reaches at 300, and OPSD half-way between 10 and 20.
    assert found.weakest == "grpo" and found.target == pytest.approx(0.8)
    assert found.to_target() == pytest.approx({"opsd": 15, "grpo": 300})
    ratio = found.ratio("opsd", "grpo")
    assert ratio.value == pytest.approx(20)
    assert ratio.low <= 20 <= ratio.high
    assert found.ratio("grpo", "opsd").value == pytest.approx(1 / 20)
    assert found.ratio("opsd", "grpo", "generated_and_scored").value == pytest.approx(20)


def test_token_efficiency_of_an_unreached_target_is_infinite() -> None:
    found = Efficiency(groups(), target=0.9, replicates=20)
    assert math.isinf(found.to_target()["grpo"])
    assert math.isinf(found.ratio("opsd", "grpo").value)
    assert found.ratio("grpo", "opsd").value == 0
    assert math.isnan(Efficiency(groups(), target=0.99, replicates=20).ratio("opsd", "grpo").value)


def test_token_efficiency_refuses_a_target_that_the_base_model_reaches() -> None:
    with pytest.raises(UsageError, match=r"already reaches 50\.0%"):
        Efficiency(groups(), target=0.4)


def test_token_efficiency_interval_widens_with_noise() -> None:
    spent = {"opsd": (FAST, [0, 10, 20, 30]), "grpo": (SLOW, [0, 100, 200, 300])}
    few = {
        name: [curve(name, accuracy, cost, problems=40, noise=0.1)]
        for name, (accuracy, cost) in spent.items()
    }
    narrow = Efficiency(groups(), replicates=300).ratio("opsd", "grpo")
    wide = Efficiency(few, replicates=300).ratio("opsd", "grpo")
    assert wide.high / wide.low > narrow.high / narrow.low


def test_token_efficiency_bootstrap_pairs_methods_by_seed_and_problem() -> None:
    found = Efficiency(groups(), replicates=20)
    for weights, _ in found.draws:
        np.testing.assert_array_equal(weights["opsd"], weights["grpo"])
    same = {"a": groups(0.1)["opsd"], "b": groups(0.1)["opsd"]}
    ratio = Efficiency(same, replicates=50).ratio("a", "b")
    assert (ratio.low, ratio.value, ratio.high) == (1, 1, 1)


def test_comparable_leaves_out_runs_of_another_basis_with_the_reason() -> None:
    odd = curve("grpo", SLOW, [0, 1, 2, 3], 7, **{"test problems": "other"})
    usual = [curve("opsd", FAST, [0, 1, 2, 3], n, **{"test problems": "usual"}) for n in range(2)]
    kept, left = comparable([odd, *usual])
    assert kept == usual
    assert left == {"grpo-7": "another test problems"}


def test_labels_differ_for_two_runs_of_one_seed() -> None:
    first, second = curve("opsd", FAST, [0, 1, 2, 3]), curve("opsd", FAST, [0, 1, 2, 3])
    assert list(labelled([first, second])) == ["opsd", "opsd (opsd-0)"]
    assert list(labelled([first, curve("opsd", FAST, [0, 1, 2, 3], seed=1)])) == ["opsd"]


def test_labels_name_the_settings_that_differ() -> None:
    def of(seed: int, rate: float, per_question: int) -> Curve:
        config = Config(
            method="grpo", seed=seed,
            optimizer={"learning_rate": rate}, rollouts={"per_question": per_question},
        )  # type: ignore[arg-type]  # fmt: skip
        return replace(curve("grpo", FAST, [0, 1, 2, 3], seed=seed), config=config)

    runs = [of(seed, rate, size) for rate, size in ((1e-3, 4), (1e-3, 8)) for seed in (1, 0)]
    found = labelled([curve("opsd", FAST, [0, 1, 2, 3]), *runs])
    assert list(found) == ["opsd", "grpo (per_question 4)", "grpo (per_question 8)"]
    assert [c.seed for c in found["grpo (per_question 8)"]] == [0, 1]
    assert (
        list(labelled([*runs, of(0, 1e-2, 4)]))[-1] == "grpo (per_question 4, learning_rate 0.01)"
    )


def test_cost_of_a_ledger_counts_every_token() -> None:
    ledger = {"generated": 1, "teacher_scored": 10, "scored": 100, "prompt": 1000, "trained": 10000}
    assert cost_of(ledger, 2.5) == {
        "generated": 1,
        "generated_and_scored": 111,
        "all": 11111,
        "cpu_seconds": 2.5,
        "flops": 2 * 1111 + 4 * 10000,
    }


def test_comparison_summary_names_its_target_and_ratio() -> None:
    summary = summary_of(groups())
    assert summary["target_from"] == "the best that grpo reaches"
    assert summary["token_efficiency"]["ratio"] == pytest.approx(20)
    assert summary["token_efficiency"]["counted"] == "generated"
    assert summary["methods"]["grpo"]["tokens_to_target"] == pytest.approx(300)
    assert summary["methods"]["opsd"]["accuracy"]["value"] == pytest.approx(0.95)
    assert "opsd needs 20× fewer generated tokens than grpo to reach 80.0%" in verdict(summary)
    missed = summary_of(groups(), target=0.9)
    assert missed["methods"]["grpo"]["tokens_to_target"] is None
    assert verdict(missed) == "opsd reaches 90.0%; grpo does not: its best is 80.0%."
    neither = summary_of(groups(), target=0.99)
    assert verdict(neither) == (
        "Neither opsd nor grpo reaches 99.0%. Best test accuracy: opsd 95.0%, grpo 80.0%."
    )


def test_comparison_verdict_names_a_target_that_is_reached_before_training() -> None:
    """One method only gets worse: the best that it reaches is the base model's accuracy."""
    worse = {"sft": [curve("sft", [0.5, 0.3, 0.1, 0.1], [0, 0, 0, 0])]}
    for found in (
        summary_of({"opsd": groups()["opsd"][:1], **worse}),
        json_safe(summary_of({"opsd": groups()["opsd"][:1], **worse})),
    ):
        said = verdict(found)
        assert "Neither" not in said and "Best test accuracy: opsd 95.0%, sft 50.0%" in said
        assert "the target is 50.0%, because sft never rose above it" in said
        assert "both methods have that before training" in said and "--target" in said
        assert title(found) == "Best test accuracy: opsd 95.0%, sft 50.0%"
        assert tokens_needed(found, "opsd") == "reached before training"
        assert all(ratio_of(found, cost) is None for cost in COSTS)
    found = summary_of({"opsd": groups()["opsd"][:1], **worse})
    with pytest.raises(GateNotMet, match="there is no token-efficiency ratio, and 4× is required"):
        Comparison(found, {}, Path("c")).require_ratio(4)


@pytest.mark.parametrize("accuracy", [[0.5, 0.3, 0.1, 0.1], [0.5, 0.505, 0.5, 0.49]])
def test_comparison_target_leaves_out_a_method_that_never_improves(accuracy: list[float]) -> None:
    """Whether its accuracy falls, or one evaluation is higher by chance."""
    third = {"sft": [curve("sft", accuracy, [0, 40, 80, 120], s, noise=0.05) for s in range(3)]}
    alone, with_third = summary_of(groups()), summary_of(groups() | third)
    assert alone["never_improved"] == [] and with_third["never_improved"] == ["sft"]
    assert with_third["target_accuracy"] == pytest.approx(alone["target_accuracy"])
    assert with_third["efficiency"]["generated"]["ratio"] == pytest.approx(20)
    assert "20×" in title(with_third)
    for found in (with_third, json_safe(with_third)):
        assert "opsd needs 20× fewer generated tokens than grpo to reach 80.0%" in verdict(found)
        assert verdict(found).endswith(
            "sft never improved on the accuracy before training by more than chance; the target is "
            "the best that grpo reaches."
        )
        assert tokens_needed(found, "sft") == "never within 120"
    Comparison(with_third, {}, Path("c")).require_ratio(4)


def test_comparison_target_is_the_base_accuracy_if_fewer_than_two_methods_improve() -> None:
    flat = {
        name: [curve(name, [0.5, 0.4, 0.3, 0.3], [0, 40, 80, 120])] for name in ("sft", "hybrid")
    }
    found = summary_of({"opsd": groups()["opsd"][:1], **flat})
    assert found["never_improved"] == [] and found["target_accuracy"] == pytest.approx(0.5)
    assert math.isnan(found["token_efficiency"]["ratio"])


def test_comparison_target_of_three_methods_counts_a_small_real_improvement() -> None:
    small = [curve("sft", [0.5, 0.52, 0.54, 0.54], [0, 40, 80, 120], seed) for seed in range(3)]
    found = summary_of(groups() | {"sft": small})
    assert found["never_improved"] == [] and found["target_accuracy"] == pytest.approx(0.54)


def test_comparison_verdict_of_a_baseline_that_never_improves() -> None:
    """The headline keeps its two methods, though others determine the target."""
    flat = [curve("grpo", [0.5, 0.4, 0.3, 0.3], [0, 100, 200, 300], seed) for seed in range(3)]
    hybrid = [curve("hybrid", SLOW, [0, 100, 200, 300], seed) for seed in range(3)]
    found = summary_of(groups() | {"grpo": flat, "hybrid": hybrid})
    assert found["target_accuracy"] == pytest.approx(0.8)
    assert verdict(found).startswith("opsd reaches 80.0%; grpo does not: its best is 50.0%. grpo ")
    assert (tokens_needed(found, "opsd"), tokens_needed(found, "hybrid")) == ("15", "300")


def test_comparison_verdict_of_a_method_that_generates_nothing_counts_all_tokens() -> None:
    supervised = curve("sft", SLOW, [0, 100, 200, 300])
    idle = replace(supervised, cost_E=supervised.cost_E | {"generated": np.zeros(4)})
    found = summary_of({"opsd": groups()["opsd"][:1], "sft": [idle]})
    said = verdict(found)
    assert "opsd takes 15 tokens of all kinds and sft 300: ratio 20×" in said
    assert "sft generates no tokens, so there is no ratio of generated tokens." in said
    assert tokens_needed(found, "sft") == "reached, generates none"
    assert (tokens_spent(found, "sft"), tokens_spent(found, "opsd")) == ("none", "30")
    assert ratio_of(found, "generated") is None
    assert ratio_of(found, "all") is not None


def test_comparison_headline_prefers_opsd_and_grpo() -> None:
    assert pair_of(["sft", "grpo", "opsd"]) == ("opsd", "grpo")
    assert pair_of(["sft", "hybrid"]) == ("sft", "hybrid")
    assert times(math.inf) == "∞" and times(None) == "unknown" and times(8.314) == "8.31×"
