"""Estimates against enumeration and printed tables, intervals against simulated coverage."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_cli.errors import UsageError
from opsd_cli.statistics import (
    Estimate,
    average_at_k,
    majority_at_k,
    paired_difference,
    pass_at_k,
)
from opsd_cli.student_t import student_t_quantile

# Two-sided 95% and 99% points as printed in statistical tables.
T_TABLE = {
    (0.975, 1): 12.706205,
    (0.975, 2): 4.302653,
    (0.975, 3): 3.182446,
    (0.975, 4): 2.776445,
    (0.975, 9): 2.262157,
    (0.975, 29): 2.045230,
    (0.975, 30): 2.042272,
    (0.975, 120): 1.979930,
    (0.975, 100_000): 1.959988,
    (0.995, 5): 4.032143,
    (0.995, 10): 3.169273,
    (0.95, 7): 1.894579,
}


@pytest.mark.parametrize(("probability", "degrees"), T_TABLE)
def test_t_quantile_matches_the_tables(probability: float, degrees: int) -> None:
    expected = T_TABLE[probability, degrees]
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, abs=6e-7)
    assert student_t_quantile(1 - probability, degrees) == pytest.approx(-expected, abs=6e-7)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_t_quantile_refuses_probability_0_and_1_and_no_degrees(
    probability: float, degrees: int
) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        student_t_quantile(probability, degrees)


def bimodal_draws(
    rng: np.random.Generator, draws: int, problems: int, samples: int, a: float, b: float
) -> np.ndarray:
    """Simulated grades [draws, P, K]; problems are nearly always or nearly never solved."""
    chance_DP = rng.beta(a, b, size=(draws, problems))
    return rng.random((draws, problems, samples)) < chance_DP[:, :, None]


def covered(estimates: list[Estimate], truth: float) -> float:
    return sum(e.low <= truth <= e.high for e in estimates) / len(estimates)


def test_average_at_k_interval_covers_95_percent_where_the_independent_one_does_not() -> None:
    a, b = 0.2, 0.3
    correct_DPK = bimodal_draws(np.random.default_rng(0), 1000, 30, 16, a, b)
    truth = a / (a + b)
    assert 0.93 <= covered([average_at_k(c) for c in correct_DPK], truth) <= 0.99

    mean_D = correct_DPK.mean(axis=(1, 2))
    half_D = 1.96 * np.sqrt(mean_D * (1 - mean_D) / (30 * 16))
    naive = [Estimate(m, m - h, m + h) for m, h in zip(mean_D, half_D, strict=True)]
    assert covered(naive, truth) < 0.6


def test_average_at_k_interval_near_one_covers_better_than_mean_plus_minus_t() -> None:
    a, b, problems = 1.5, 0.1, 10
    correct_DPK = bimodal_draws(np.random.default_rng(1), 1000, problems, 16, a, b)
    truth = a / (a + b)
    plain = []
    for correct_PK in correct_DPK:
        mean_P = correct_PK.mean(axis=1)
        half = student_t_quantile(0.975, problems - 1) * mean_P.std(ddof=1) / math.sqrt(problems)
        plain.append(Estimate(mean_P.mean(), mean_P.mean() - half, mean_P.mean() + half))
    assert covered(plain, truth) < 0.8
    assert covered([average_at_k(c) for c in correct_DPK], truth) > 0.86


def test_pass_at_k_interval_covers_95_percent() -> None:
    a, b, k = 0.2, 0.6, 4
    correct_DPK = bimodal_draws(np.random.default_rng(2), 1000, 30, 16, a, b)
    # E[(1-p)^k] of a Beta(a, b): a product of rising factorials.
    truth = 1 - math.prod((b + i) / (a + b + i) for i in range(k))
    assert 0.93 <= covered([pass_at_k(c, k) for c in correct_DPK], truth) <= 0.99


def test_paired_difference_interval_covers_95_percent_and_gains_from_pairing() -> None:
    rng = np.random.default_rng(3)
    chance_DP = rng.beta(0.3, 0.3, size=(1000, 30))
    lift = 0.3
    a_DPK = rng.random((1000, 30, 16)) < (chance_DP + lift * (1 - chance_DP))[:, :, None]
    b_DPK = rng.random((1000, 30, 16)) < chance_DP[:, :, None]
    pairs = [paired_difference(a, b) for a, b in zip(a_DPK, b_DPK, strict=True)]
    assert 0.93 <= covered(pairs, lift * 0.5) <= 0.99

    crossed = [paired_difference(a, b[::-1]) for a, b in zip(a_DPK, b_DPK, strict=True)]
    width = np.mean([e.high - e.low for e in pairs])
    assert width < 0.7 * np.mean([e.high - e.low for e in crossed])


def test_average_at_k_limits_solve_the_score_equation_at_the_effective_sample_size() -> None:
    """Means 1, .5, 0, .5: variance 1/6, squared error 1/24, so p(1-p)/SE² = 6 draws; t(3)."""
    estimate = average_at_k([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]])
    for limit in (estimate.low, estimate.high):
        distance = (limit - 0.5) / math.sqrt(limit * (1 - limit) / 6)
        assert abs(distance) == pytest.approx(T_TABLE[0.975, 3], abs=1e-5)


def test_average_at_k_interval_is_clustered_by_problem() -> None:
    one_each = np.array([[True], [False], [True], [True], [False], [True]])
    repeated = np.repeat(one_each, 16, axis=1)
    assert average_at_k(repeated) == average_at_k(one_each)


def test_average_at_k_interval_of_accuracy_1_has_a_width() -> None:
    few, many = average_at_k(np.ones((10, 8))), average_at_k(np.ones((100, 8)))
    assert (few.value, few.high) == (1.0, 1.0)
    assert few.low < 0.75 < 0.9 < many.low < 1.0
    mirrored = average_at_k(np.zeros((10, 8)))
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1 - few.low))


def test_average_at_k_interval_of_one_problem_is_everything() -> None:
    one = [[True, True, False, False]]
    assert average_at_k(one) == Estimate(0.5, 0.0, 1.0)
    assert paired_difference(one, [[False] * 4]) == Estimate(0.5, -1.0, 1.0)


def test_average_at_k_interval_of_equal_problems_is_the_binomial_one() -> None:
    """Forty problems at exactly 1/2 have no spread; 80 fair coins still leave ±0.11."""
    half = average_at_k([[True, False]] * 40)
    assert half.value == 0.5
    assert half.high - half.low == pytest.approx(2 * 0.109, abs=0.01)


@st.composite
def grade_tables(draw: st.DrawFn, max_samples: int = 7) -> list[list[bool]]:
    problems = draw(st.integers(1, 5))
    samples = draw(st.integers(1, max_samples))
    row = st.lists(st.booleans(), min_size=samples, max_size=samples)
    return draw(st.lists(row, min_size=problems, max_size=problems))


@given(grade_tables(), st.data())
@settings(deadline=None)
def test_pass_at_k_is_the_mean_over_all_subsets(
    table: list[list[bool]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(table[0])))
    expected = Fraction(0)
    for row in table:
        subsets = list(itertools.combinations(row, k))
        expected += Fraction(sum(map(any, subsets)), len(subsets))
    estimate = pass_at_k(table, k)
    assert estimate.value == pytest.approx(float(expected / len(table)), abs=1e-12)
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0


@given(grade_tables())
@settings(deadline=None)
def test_pass_at_1_is_average(table: list[list[bool]]) -> None:
    one, average = pass_at_k(table, 1), average_at_k(table)
    assert (one.value, one.low, one.high) == pytest.approx(
        (average.value, average.low, average.high)
    )


def test_pass_at_k_stays_exact_with_many_samples() -> None:
    n, k, c = 5000, 1000, 3
    expected = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    row = np.arange(n) < c
    assert pass_at_k([row, row], k).value == pytest.approx(float(expected), abs=1e-13)


@given(grade_tables(), grade_tables())
@settings(deadline=None)
def test_paired_difference_is_antisymmetric_and_bounded(
    a: list[list[bool]], b: list[list[bool]]
) -> None:
    problems = min(len(a), len(b))
    forth = paired_difference(a[:problems], b[:problems])
    back = paired_difference(b[:problems], a[:problems])
    assert -1.0 <= forth.low <= forth.value <= forth.high <= 1.0
    assert (forth.value, forth.low, forth.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )


def test_paired_difference_of_two_perfect_runs_has_a_width() -> None:
    difference = paired_difference(np.ones((30, 4)), np.ones((30, 4)))
    assert difference.value == 0.0
    assert -0.2 < difference.low < -0.05 and 0.05 < difference.high < 0.2


def test_paired_difference_of_a_clear_gain_excludes_zero() -> None:
    before = np.array([[True, False, False, False], [False] * 4, [True] * 4] * 10)
    after = np.array([[True, True, True, False], [True, True, False, False], [True] * 4] * 10)
    assert paired_difference(after, before).low > 0.1
    assert paired_difference(before, after).high < -0.1


def vote(correct: list[bool], keys: list[str | None]) -> float:
    return majority_at_k([correct], [keys]).value


def test_majority_vote_is_right_or_wrong() -> None:
    assert vote([True, True, False], ["7", "7", "9"]) == 1.0
    assert vote([True, False, False], ["7", "9", "9"]) == 0.0


def test_majority_tie_counts_its_expected_value() -> None:
    assert vote([True, False], ["7", "9"]) == 0.5
    assert vote([True, False, False], ["7", "8", "9"]) == pytest.approx(1 / 3)
    assert vote([True, True, False, False, False], ["7", "7", "9", "9", "1"]) == 0.5


def test_majority_ignores_samples_without_an_answer() -> None:
    assert vote([False, False, False, True], [None, None, None, "7"]) == 1.0
    assert vote([False, False], [None, None]) == 0.0
    assert vote([False, False, False, True], [None, None, "9", "7"]) == 0.5


def test_majority_answer_graded_both_ways_counts_in_part() -> None:
    assert vote([True, False, True, False], ["7", "7", "7", "7"]) == 0.5


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["7", "8", "9", None])), min_size=1),
    st.data(),
)
@settings(deadline=None)
def test_majority_ignores_the_order_of_samples(
    samples: list[tuple[bool, str | None]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(samples))
    values = [vote([c for c, _ in order], [k for _, k in order]) for order in (samples, shuffled)]
    assert values[0] == pytest.approx(values[1])


def test_majority_interval_is_clustered_by_problem() -> None:
    correct = [[True, True, False]] * 20 + [[False, False, True]] * 10
    keys = [["1", "1", "2"]] * 20 + [["3", "3", "1"]] * 10
    estimate = majority_at_k(correct, keys)
    assert estimate == average_at_k([[True]] * 20 + [[False]] * 10)


def test_pass_at_k_refuses_too_few_samples() -> None:
    with pytest.raises(UsageError, match="pass@8 needs at least 8 samples a problem, these have 4"):
        pass_at_k(np.ones((3, 4)), 8)
    with pytest.raises(UsageError, match="pass@0"):
        pass_at_k(np.ones((3, 4)), 0)


def test_statistics_refuse_ragged_samples_and_name_the_problem() -> None:
    ragged = [[True, False], [True], [True, True, True]]
    with pytest.raises(UsageError, match="problem 2 has 1 samples where problem 1 has 2"):
        average_at_k(ragged)
    with pytest.raises(UsageError, match="problem 'aime-7' has 1 samples"):
        average_at_k(ragged, problem_ids=["aime-6", "aime-7", "aime-8"])


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        ([], "no problems"),
        ([[], []], "problem 1 has no samples"),
        ([[1, 2]], "true or false"),
        ([[0.5, 1.0]], "true or false"),
    ],
)
def test_statistics_refuse_values_that_are_no_grades(
    grades: list[list[float]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        average_at_k(grades)


def test_statistics_refuse_runs_of_different_problems() -> None:
    with pytest.raises(UsageError, match="hold 3 and 2 problems"):
        paired_difference(np.ones((3, 4)), np.ones((2, 4)))
    with pytest.raises(UsageError, match="answers for 1 problems and grades for 2"):
        majority_at_k(np.ones((2, 2)), [["1", "1"]])
    with pytest.raises(UsageError, match="problem 2 has 1 answers and 2 grades"):
        majority_at_k(np.ones((2, 2)), [["1", "1"], ["1"]])


def test_estimate_as_dict() -> None:
    assert Estimate(0.5, 0.25, 0.75).as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75}
