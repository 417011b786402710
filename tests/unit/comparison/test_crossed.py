"""Intervals over seeds and problems, Holm's adjustment and the seeds that would tell, simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opsd_cli.comparison.crossed import CrossedMean, crossed_mean, holm_adjusted, seed_mean
from opsd_cli.statistics import paired_difference
from opsd_cli.student_t import student_t_p_value, student_t_quantile


def drawn(
    random: np.random.Generator, mean: float, seeds: int, problems: int, spread: tuple[float, ...]
) -> np.ndarray:
    """Differences [S, P] of a crossed model with these standard deviations: seed, problem, rest."""
    of_seed, of_problem, rest = spread
    return (
        mean
        + random.normal(0, of_seed, (seeds, 1))
        + random.normal(0, of_problem, (1, problems))
        + random.normal(0, rest, (seeds, problems))
    )


@pytest.mark.parametrize(
    ("seeds", "problems", "spread"),
    [
        (3, 100, (0.03, 0.1, 0.3)), (3, 100, (0.0, 0.1, 0.3)), (2, 100, (0.02, 0.1, 0.3)),
        (5, 60, (0.03, 0.0, 0.3)), (3, 30, (0.05, 0.2, 0.1)), (1, 50, (0.0, 0.1, 0.3)),
    ],
)  # fmt: skip
def test_interval_over_seeds_and_problems_covers_the_mean(
    seeds: int, problems: int, spread: tuple[float, ...]
) -> None:
    random, covered, repetitions = np.random.default_rng(1), 0, 600
    for _ in range(repetitions):
        found = crossed_mean(drawn(random, 0.02, seeds, problems, spread)).estimate()
        covered += found.low <= 0.02 <= found.high
    # Of 600 at 95%, three standard errors below are 92.3%.
    assert covered / repetitions > 0.923


def test_interval_of_one_seed_agrees_with_that_of_paired_problems() -> None:
    random = np.random.default_rng(2)
    a, b = random.random((2, 300, 1)) < np.array([0.6, 0.5]).reshape(2, 1, 1)
    found = crossed_mean((a.astype(float) - b).T).estimate()
    usual = paired_difference(a, b)
    assert found.value == pytest.approx(usual.value)
    assert (found.low, found.high) == pytest.approx((usual.low, usual.high), abs=0.005)


def test_variance_components_of_seeds_and_problems_are_recovered() -> None:
    random = np.random.default_rng(3)
    found = crossed_mean(drawn(random, 0.1, 300, 300, (0.05, 0.2, 0.4)))
    assert found.between_seeds == pytest.approx(0.05**2, rel=0.25)
    assert found.between_problems == pytest.approx(0.2**2, rel=0.25)
    assert found.rest == pytest.approx(0.4**2, rel=0.05)


def test_interval_without_any_observed_variation_has_a_width() -> None:
    equal = crossed_mean(np.zeros((3, 50)))
    assert equal.p_value == 1.0 and equal.estimate().low < 0 < equal.estimate().high
    certain = crossed_mean(np.ones((3, 50))).estimate()
    assert certain.low < certain.high == 1.0


@pytest.mark.parametrize(
    ("mean", "problems", "spread"),
    [(0.03, 200, (0.02, 0.1, 0.3)), (0.02, 400, (0.02, 0.05, 0.3))],
)
def test_seeds_needed_find_the_difference_in_four_of_five_repetitions(
    mean: float, problems: int, spread: tuple[float, ...]
) -> None:
    variances = [each**2 for each in spread]
    seeds = CrossedMean(mean, 3, problems, *variances).seeds_needed()
    assert seeds is not None and seeds > 3
    random, repetitions = np.random.default_rng(4), 800

    def power(count: int) -> float:
        tests = (crossed_mean(drawn(random, mean, count, problems, spread)).p_value < 0.05
                 for _ in range(repetitions))  # fmt: skip
        return sum(tests) / repetitions

    assert power(seeds) == pytest.approx(0.8, abs=0.06)
    assert power(seeds // 2) < 0.7


def test_seeds_needed_are_unknown_with_one_seed_or_too_few_problems() -> None:
    assert CrossedMean(0.02, 1, 100, None, 0.1, 0.0).seeds_needed() is None
    # The problems alone have a standard error of 3.2 points, whatever the number of seeds.
    assert CrossedMean(0.02, 3, 100, 0.001, 0.1, 0.1).seeds_needed() is None
    assert CrossedMean(0.0, 3, 100, 0.001, 0.0, 0.1).seeds_needed() is None


def test_seeds_needed_are_known_at_once_where_none_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = CrossedMean(0.02, 3, 100, 0.001, 0.1, 0.1)
    monkeypatch.setattr(CrossedMean, "detectable", lambda *_: pytest.fail("asked a thousand times"))
    assert found.seeds_needed() is None


def test_seeds_needed_grow_with_the_number_of_comparisons() -> None:
    found = CrossedMean(0.03, 3, 400, 0.0005, 0.01, 0.09)
    one, many = found.seeds_needed(0.05), found.seeds_needed(0.01)
    assert one is not None and many is not None and many > one


@pytest.mark.parametrize("degrees", [1, 2, 7, 399])
def test_p_value_at_the_t_quantile_is_its_level(degrees: int) -> None:
    t = student_t_quantile(0.975, degrees)
    assert student_t_p_value(t, degrees) == pytest.approx(0.05, abs=1e-9)
    assert student_t_p_value(-t, degrees) == student_t_p_value(t, degrees)
    assert student_t_p_value(0.0, degrees) == 1.0


def test_holm_adjusted_p_values_of_a_worked_example() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjusted([0.7, 0.9]) == [1.0, 1.0]
    assert holm_adjusted([]) == []


def test_holm_adjusted_p_values_keep_one_false_verdict_below_five_percent() -> None:
    random = np.random.default_rng(5)
    p_values = random.random((2000, 6))
    false = np.mean([min(holm_adjusted(list(row))) <= 0.05 for row in p_values])
    assert false < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_interval_of_one_value_a_run_needs_two_seeds() -> None:
    assert seed_mean([4.0]) == {"value": 4.0, "low": None, "high": None}
    found = seed_mean([1.0, 3.0])
    assert found["low"] == pytest.approx(2 - 12.706, abs=0.01)
