"""Ragged sequences padded into rectangles, and grouped into micro-batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends.pytorch.padding import pad_left
from backends.shared.micro_batches import micro_batches, pad_right
from opsd_cli.errors import ModelError

CPU = torch.device("cpu")
ids = st.integers(1, 99)
prompts = st.lists(ids, min_size=1, max_size=6)


@given(st.lists(st.tuples(prompts, st.lists(ids, max_size=6)), min_size=1, max_size=5))
def test_each_completion_token_is_predicted_from_the_one_before(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    found = pad_right(pairs)
    assert found.targets_N.tolist() == [token for _, completion in pairs for token in completion]
    assert found.counts == tuple(len(completion) for _, completion in pairs)
    flat = found.ids_BL.flatten()
    before = [([*p, *c])[len(p) - 1 : len(p) + len(c) - 1] for p, c in pairs]
    assert flat[found.predictors_N].tolist() == [token for tokens in before for token in tokens]
    for row, (prompt, completion) in zip(found.ids_BL.tolist(), pairs, strict=True):
        length = len(prompt) + len(completion)
        assert row[:length] == [*prompt, *completion]
        assert not any(row[length:])


@given(st.lists(prompts, min_size=1, max_size=5))
def test_left_padding_ends_every_prompt_in_the_last_column(rows: list[list[int]]) -> None:
    ids_BL, mask_BL, positions_BL = pad_left(rows, CPU)
    for row, prompt in enumerate(rows):
        assert ids_BL[row][mask_BL[row]].tolist() == prompt
        assert positions_BL[row][mask_BL[row]].tolist() == list(range(len(prompt)))
        assert mask_BL[row].tolist() == sorted(mask_BL[row].tolist())
        assert mask_BL[row, -1]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_micro_batches_hold_everything_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    groups = micro_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= budget
    # Neighbours would not have fit together: no group was closed early.
    for group, following in itertools.pairwise(groups):
        longest = max(lengths[index] for index in group)
        assert (len(group) + 1) * longest > budget
        assert longest >= max(lengths[index] for index in following)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="no tokens"):
        pad_right([((), (1,))])
    with pytest.raises(ModelError, match="no tokens"):
        pad_left([(1,), ()], CPU)
