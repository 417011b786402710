"""The masks of `lora.dropout` number by number, in Python's integers."""

from __future__ import annotations

import numpy as np

from opsd_cli.seeds import derive_seed


def fmix32(x: int) -> int:
    """The finaliser of MurmurHash3."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def kept(
    probability: float, seed: int, update: int, items: tuple[int, ...], path: str,
    length: int, width: int,
) -> np.ndarray:  # fmt: skip
    """Which numbers of a layer's input [B, L, D] are kept."""
    found = np.zeros((len(items), length, width), bool)
    layer = derive_seed("dropout", path) % 2**32
    for row, item in enumerate(items):
        start = fmix32(derive_seed(seed, "dropout", update, item) % 2**32 ^ layer)
        for position in range(length):
            key = fmix32((start + position * 0x9E3779B9) % 2**32)
            for channel in range(width):
                number = fmix32((key + channel * 0x9E3779B9) % 2**32) ^ 2**31
                found[row, position, channel] = number >= round(probability * 2**32)
    return found
