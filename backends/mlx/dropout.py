"""The dropout of `backends.shared.dropout` on MLX's arrays.

Not by `mx.compile(shapeless=True)`, which keeps the first call's broadcast and then refuses a layer
of another width.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from backends.shared.dropout import MULTIPLIERS, SHIFTS, STRIDE, DropoutRows, layer_seed, threshold


class ItemDropout(nn.Module):
    """Dropout at a LoRA layer's input.

    Args:
        probability: of a number to become zero, above 0 and below 1.
        path: the layer's.
        rows: of the adapter.
    """

    def __init__(self, probability: float, path: str, rows: DropoutRows) -> None:
        super().__init__()
        self._name = path
        self._rows = rows
        self._layer_seed = layer_seed(path)
        self._threshold = threshold(probability)
        self._factor = 1.0 / (1.0 - probability)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, L, D] or [B * L, D], and the same shape back; the input itself in evaluation mode."""
        if not self.training:
            return x
        length = self._rows.positions(x.shape, self._name)
        key_B1 = _mixed(self._rows.array(mx.array)[:, None] ^ _uint32(self._layer_seed))
        key_BL = _mixed(key_B1 + _steps(length))
        hash_BLD = _mixed(key_BL[..., None] + _steps(x.shape[-1]))
        kept = (hash_BLD ^ _uint32(2**31)) >= _uint32(self._threshold)
        return mx.where(kept.reshape(x.shape), x * self._factor, 0)


def _uint32(number: int) -> mx.array:
    return mx.array(number, mx.uint32)


def _steps(count: int) -> mx.array:
    """0, STRIDE, 2 * STRIDE, ... modulo 2**32."""
    return mx.arange(count, dtype=mx.uint32) * _uint32(STRIDE)


def _mixed(x: mx.array) -> mx.array:
    """`fmix32`."""
    x = (x ^ (x >> _uint32(SHIFTS[0]))) * _uint32(MULTIPLIERS[0])
    x = (x ^ (x >> _uint32(SHIFTS[1]))) * _uint32(MULTIPLIERS[1])
    return x ^ (x >> _uint32(SHIFTS[2]))
