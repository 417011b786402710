"""How rows come and go while a batch is decoded, seen at the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.interface import RolloutRequest, Sampling
from backends.pytorch.backend import CpuBackend
from backends.pytorch.cache import GrowingLayer
from backends.pytorch.split_model import SplitModel
from opsd_cli.config.schema import Config

#: Nine questions of unequal length with four samples each.
REQUESTS = [
    RolloutRequest(f"p{n}", k, tuple(3 + (n + i) % 20 for i in range(3 + n % 4)), 50 * n + k)
    for n in range(9)
    for k in range(4)
]
SAMPLING = Sampling(temperature=1.2, max_new_tokens=24)


class Watched:
    """Every reading of the network: rows, tokens per row, and columns of the cache after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readings: list[tuple[int, int, int]] = []
        plain = SplitModel.hidden

        def hidden(network: SplitModel, ids_BL: Any, mask: Any, places: Any, cache: Any) -> Any:
            found = plain(network, ids_BL, mask, places, cache)
            self.readings.append((*ids_BL.shape, cache.get_seq_length()))
            return found

        monkeypatch.setattr(SplitModel, "hidden", hidden)


@pytest.fixture
def drawn(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[tuple[str, int], tuple[int, ...]], list[tuple[int, int, int]]]]:
    def draw(family: str, batch_size: int) -> Any:
        settings: Any = {"model": str(model_folder(family)), "train": {"dtype": "float32"}}
        settings["rollouts"] = {"batch_size": batch_size}
        policy = CpuBackend().load(Config(**settings), trainable=False)
        with monkeypatch.context() as patch:
            watched = Watched(patch)
            rollouts = list(policy.generate(REQUESTS, SAMPLING))
        found = {(r.request.problem_id, r.request.sample_index): r.completion_ids for r in rollouts}
        assert len(found) == len(rollouts) == len(REQUESTS)
        return found, watched.readings

    return draw


def test_waiting_prompts_join_the_batch_and_finished_rows_leave(drawn: Any) -> None:
    found, readings = drawn("qwen3", 12)
    lengths = [len(ids) for ids in found.values()]
    assert min(lengths) < 5 and max(lengths) > 15  # or there is nothing to gain
    prompts = [(rows, tokens) for rows, tokens, _ in readings if tokens > 1]
    # Each question's prompt is read once, whatever its samples: only distinct rows are read.
    assert sum(rows for rows, _ in prompts) <= 9
    assert len(prompts) > 2  # and not all at the beginning
    # All but the tail is decoded by a batch that is mostly full.
    decoded = [rows for rows, tokens, _ in readings if tokens == 1]
    full = sum(lengths) / 12
    assert len(decoded) < 2.5 * full
    # Columns whose rows have gone go too, or 36 rollouts would have left theirs side by side.
    assert max(columns for _, _, columns in readings) <= 2 * (6 + 24)


def test_rollouts_are_the_same_at_any_batch_size(drawn: Any) -> None:
    alone, _ = drawn("qwen3", 1)
    for size in (3, 5, 12, 64):
        assert drawn("qwen3", size)[0] == alone, size


def test_sliding_window_caches_do_not_join(drawn: Any) -> None:
    alone, _ = drawn("gemma3", 1)
    found, readings = drawn("gemma3", 12)
    assert found == alone
    assert sum(tokens > 1 for _, tokens, _ in readings) == 3


def test_cache_buffer_grows_seldom_and_keeps_its_contents() -> None:
    layer, given = GrowingLayer(), []
    buffers = set()
    for n in range(700):
        column = torch.full((2, 1, 1, 4), float(n))
        given.append(column)
        keys, values = layer.update(column, -column)
        buffers.add(layer.keys.data_ptr())
        assert keys.shape == (2, 1, n + 1, 4)
    assert torch.equal(keys, torch.cat(given, dim=2)) and torch.equal(values, -keys)
    assert layer.keys.shape[2] < 700 * 1.3
    assert len(buffers) < 12


def test_cache_rows_join_right_aligned_over_zeros() -> None:
    long, short = GrowingLayer(), GrowingLayer()
    long.update(torch.ones(2, 1, 5, 4), torch.ones(2, 1, 5, 4))
    short.update(torch.full((1, 1, 2, 4), 3.0), torch.full((1, 1, 2, 4), 3.0))
    long.join(short, 1)
    assert long.length == 5
    assert torch.equal(long.keys[2, 0, :5, 0], torch.tensor([0.0, 0.0, 0.0, 3.0, 3.0]))
    long.join(GrowingLayer(), 2)  # prompts of one token: nothing was read of them yet
    assert long.keys.shape[0] == 5 and not long.keys[3:].any()
    long.select(torch.tensor([2, 3]), 3)
    keys, _ = long.update(torch.full((2, 1, 1, 4), 7.0), torch.zeros(2, 1, 1, 4))
    assert keys[0, 0, :, 0].tolist() == [3.0, 3.0, 7.0]
    assert keys[1, 0, :, 0].tolist() == [0.0, 0.0, 7.0]
