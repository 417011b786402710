"""Dropout without a random generator: whether a number is kept is a hash of what it is.

The mask of a layer's input depends on (run's seed, update, item, layer, position, channel) alone.
So it is the same however items are grouped into micro-batches, padded or spread over processes, on
every backend, and when gradient checkpointing computes a block a second time.

With mix = the finaliser of MurmurHash3 (`fmix32`; Austin Appleby, public domain) and the stride of
SplitMix64's counter, cut to 32 bits (Steele, Lea and Flood, OOPSLA 2014), all modulo 2**32:

    row    = the low 32 bits of derive_seed(seed, "dropout", update, item)
    layer  = the low 32 bits of derive_seed("dropout", path)
    key    = mix(mix(row ^ layer) + position * STRIDE)
    kept   = mix(key + channel * STRIDE) ^ 2**31  >=  p * 2**32

The 2**31 lets a library without unsigned integers compare signed ones. What is kept is multiplied
by 1 / (1 - p).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from opsd_cli.errors import TrainingError
from opsd_cli.seeds import derive_seed

STRIDE = 0x9E3779B9
#: Shifts and multipliers of `fmix32`, in the order in which they are applied.
SHIFTS = (16, 13, 16)
MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_MASK = 2**32 - 1


def row_seeds(seed: int, update: int, items: Sequence[int]) -> np.ndarray:
    """`row` of the items at these places of the update's batch, uint32 [B]."""
    seeds = [derive_seed(seed, "dropout", update, item) & _MASK for item in items]
    return np.array(seeds, np.uint32)


def layer_seed(path: str) -> int:
    """`layer` of the layer at this path in the base model."""
    return derive_seed("dropout", path) & _MASK


def threshold(probability: float) -> int:
    """p * 2**32 as a whole number."""
    return min(round(probability * 2**32), _MASK)


class DropoutRows:
    """Which items the rows of the running training pass are; an adapter's layers share one."""

    def __init__(self) -> None:
        self._seeds_B: np.ndarray | None = None
        self._length = 0
        self._converted: Any = None

    @contextlib.contextmanager
    def of(self, seeds_B: np.ndarray, length: int) -> Iterator[None]:
        """Forward and backward passes over these rows, until the block ends.

        Args:
            seeds_B: `row_seeds` of the rows.
            length: L, tokens of the longest row.
        """
        self._seeds_B, self._length, self._converted = seeds_B, length, None
        try:
            yield
        finally:
            self._seeds_B = self._converted = None

    def array(self, convert: Callable[[np.ndarray], Any]) -> Any:
        """The seeds [B] as the backend's array, converted once for a pass."""
        if self._converted is None:
            assert self._seeds_B is not None, "dropout is on outside `DropoutRows.of`"
            self._converted = convert(self._seeds_B)
        return self._converted

    def positions(self, shape: Sequence[int], path: str) -> int:
        """L of a layer's input of this shape: [B, L, D], or [B * L, D] without padding beyond L.

        Raises:
            TrainingError: it is neither, as in an expert that is given some of the tokens.
        """
        rows = 0 if self._seeds_B is None else len(self._seeds_B)
        if len(shape) == 3 and shape[0] == rows:
            return shape[1]
        if len(shape) == 2 and shape[0] == rows * self._length:
            return self._length
        raise TrainingError(
            f"lora.dropout cannot tell which tokens the layer {path} is given",
            "set lora.dropout to 0, or leave the layer out of lora.targets",
        )
