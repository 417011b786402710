"""Token weights of opsd: each formula against a hand calculation, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opsd_cli.losses.token_weights import WEIGHINGS, token_weights

GAP = np.array([0.5, -1.0, 0.0, 0.25])
ENTROPY = np.array([0.0, 2.0, 1.0, 1.0])


def weighed(name: str, strength: float | None = None) -> np.ndarray:
    return token_weights(name, strength, 4, GAP, ENTROPY)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(name: str) -> list[float]:
    """The weights of the four tokens at the default strength, before division by their mean."""
    places = (0.125, 0.375, 0.625, 0.875)
    return {
        "none": [1.0] * 4,
        "position": [2 - 2 * x for x in places],
        "late": [0.25 + 0.75 * sigmoid((x - 0.3) / 0.1) for x in places],
        "gap": [sigmoid(5 * gap) for gap in GAP],
        "entropy": list(ENTROPY),
        # The distances before each token are 0, 0.5, 1.5 and 1.5, of 1.75 in all.
        "drift": [1 + 0.5 * (1 - before / 1.75) for before in (0, 0.5, 1.5, 1.5)],
    }[name]


@pytest.mark.parametrize("name", WEIGHINGS)
def test_token_weights_are_the_formula_divided_by_its_mean(name: str) -> None:
    wanted = np.array(by_hand(name))
    np.testing.assert_allclose(weighed(name), wanted / wanted.mean(), rtol=1e-12)
    assert weighed(name).mean() == pytest.approx(1)


@pytest.mark.parametrize("name", WEIGHINGS)
def test_token_weights_of_strength_0_and_of_an_empty_completion(name: str) -> None:
    np.testing.assert_allclose(weighed(name, 0.0), np.ones(4), rtol=1e-12)
    assert len(token_weights(name, None, 0)) == 0


def test_token_weights_by_entropy_are_1_where_every_entropy_is_0() -> None:
    assert token_weights("entropy", None, 3, entropy_N=np.zeros(3)).tolist() == [1.0] * 3


@pytest.mark.parametrize("name", ["gap", "drift"])
def test_token_weights_are_finite_where_teacher_or_student_gives_probability_0(name: str) -> None:
    found = token_weights(name, None, 4, np.array([-np.inf, np.nan, np.inf, 0.0]))
    assert np.isfinite(found).all() and found.mean() == pytest.approx(1) and (found >= 0).all()
