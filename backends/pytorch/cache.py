"""Keys and values of the rows being decoded, in buffers that grow ahead of need.

transformers' own layer concatenates at every token, which copies everything so far. Here a token
writes one column, and a buffer grows by an eighth when it is full: over a completion that is one
copy of the cache in eight, where reading it whole at every token is what attention does anyway.

Rows are dropped and join. Columns are aligned at the right, where the next token goes; a row's own
columns start where its prompt does, and before them are zeros that attention masks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

BLOCK = 64
"""Columns by which a buffer's size is rounded up."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, [B, heads, columns, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized: bool = False
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[-2]
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self.is_initialized = True
        if self.length > self.keys.shape[-2]:
            self.keys = _grown(self.keys, start, self.length)
            self.values = _grown(self.values, start, self.length)
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def select(self, index_B: Tensor, first: int) -> None:
        """Keep these rows, and the columns from `first` on."""
        if self.is_initialized:
            # One after the other, so that only one is in memory twice.
            self.keys = self.keys[:, :, first : self.length].index_select(0, index_B)
            self.values = self.values[:, :, first : self.length].index_select(0, index_B)
            self.length -= first

    def roll(self, by_B: Tensor) -> None:
        """Move each row's columns so many to the right; the last ones come first."""
        if self.is_initialized:
            columns_T = torch.arange(self.length, device=by_B.device)
            from_BT = (columns_T - by_B[:, None]) % self.length
            for name in ("keys", "values"):
                mine = getattr(self, name)[:, :, : self.length]
                index = from_BT[:, None, :, None].expand(-1, mine.shape[1], -1, mine.shape[3])
                setattr(self, name, mine.gather(2, index))

    def join(self, other: GrowingLayer, rows: int) -> None:
        """Append the other layer's `rows` rows to these."""
        length = max(self.length, other.length)
        for name in ("keys", "values"):
            mine = getattr(self, name)[:, :, : self.length]
            above, heads, _, width = mine.shape
            # Zeros, since even masked columns are multiplied by a weight of 0.
            both = mine.new_zeros((above + rows, heads, _capacity(length + 1), width))
            both[:above, :, length - self.length : length] = mine
            if other.length:
                theirs = getattr(other, name)[:, :, : other.length]
                both[above:, :, length - other.length : length] = theirs
            setattr(self, name, both)
        self.length = length


def new_cache(config: Any) -> Cache:
    """An empty cache, of the kinds of layers that a model of this config has."""
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def can_join(cache: Cache) -> bool:
    """True if rows can join and columns be dropped: not if a layer keeps a sliding window."""
    return all(isinstance(layer, GrowingLayer) for layer in cache.layers)


def select(cache: Cache, index_B: Tensor, first: int = 0) -> None:
    """Keep these rows; and the columns from `first` on, which must be 0 unless `can_join`."""
    if not can_join(cache):
        cache.reorder_cache(index_B)
        return
    for layer in cache.layers:
        assert isinstance(layer, GrowingLayer)
        layer.select(index_B, first)


def roll(cache: Cache, by_B: Tensor) -> None:
    """Move each row's columns so many to the right, of a cache of which `can_join` is true."""
    for layer in cache.layers:
        assert isinstance(layer, GrowingLayer)
        layer.roll(by_B)


def join(cache: Cache, other: Cache, rows: int) -> None:
    """Append the other cache's `rows` rows to this one's, which must not be empty.

    `can_join` must be true of both.
    """
    for layer, joining in zip(cache.layers, other.layers, strict=True):
        assert isinstance(layer, GrowingLayer) and isinstance(joining, GrowingLayer)
        layer.join(joining, rows)


def _grown(buffer: Tensor, used: int, needed: int) -> Tensor:
    rows, heads, _, width = buffer.shape
    grown = buffer.new_empty((rows, heads, _capacity(needed), width))
    grown[:, :, :used] = buffer[:, :, :used]
    return grown


def _capacity(needed: int) -> int:
    return -(-(needed + needed // 8) // BLOCK) * BLOCK
