"""Token weights of a batch: one weight a completion, for each reduction."""

from __future__ import annotations

from typing import get_args

import pytest

from opsd_cli.config.schema import Grpo
from opsd_cli.losses.reduction import GRPO_LOSS_REDUCTIONS, Reduction, completion_weights

LENGTHS = [2, 6]


def test_reduction_tokens_is_the_mean_over_all_tokens() -> None:
    assert completion_weights(LENGTHS, "tokens") == [1 / 8, 1 / 8]


def test_reduction_sequences_is_the_mean_of_each_completions_mean() -> None:
    assert completion_weights(LENGTHS, "sequences") == [1 / 4, 1 / 12]


def test_reduction_dr_grpo_divides_by_the_greatest_length() -> None:
    assert completion_weights(LENGTHS, "dr_grpo", 10) == [1 / 20, 1 / 20]


@pytest.mark.parametrize("reduction", ["tokens", "sequences"])
def test_completion_weights_sum_to_one_over_tokens(reduction: str) -> None:
    lengths = [3, 1, 7]
    weights = completion_weights(lengths, reduction)
    total = sum(weight * length for weight, length in zip(weights, lengths, strict=True))
    assert total == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("reduction", ["tokens", "sequences"])
def test_completion_weights_of_empty_completions(reduction: str) -> None:
    assert completion_weights([0, 0], reduction) == [0.0, 0.0]
    expected = {"tokens": [1 / 3, 1 / 3], "sequences": [1 / 2, 1 / 6]}
    assert completion_weights([0, 3], reduction) == expected[reduction]


def test_dr_grpo_weights_do_not_depend_on_lengths() -> None:
    assert completion_weights([0, 0], "dr_grpo", 5) == [1 / 10, 1 / 10]


@pytest.mark.parametrize("reduction", get_args(Reduction))
def test_completion_weights_of_no_completions(reduction: str) -> None:
    assert completion_weights([], reduction, 4) == []


def test_unknown_reduction_and_missing_longest_are_refused() -> None:
    with pytest.raises(ValueError, match="no reduction 'mean'"):
        completion_weights(LENGTHS, "mean")
    with pytest.raises(ValueError, match="give longest"):
        completion_weights(LENGTHS, "dr_grpo")


def test_every_grpo_loss_of_the_config_has_a_reduction() -> None:
    assert set(GRPO_LOSS_REDUCTIONS) == set(get_args(Grpo.model_fields["loss"].annotation))
    assert set(GRPO_LOSS_REDUCTIONS.values()) == set(get_args(Reduction))
