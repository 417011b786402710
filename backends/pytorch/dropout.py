"""The dropout of `backends.shared.dropout` on tensors.

Torch has no arithmetic on unsigned integers, so int32 stands for the same 32 bits: sums and
products wrap, and the bits that an arithmetic shift copies from the sign are masked.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from backends.shared.dropout import MULTIPLIERS, SHIFTS, STRIDE, DropoutRows, layer_seed, threshold

#: Hashes at one time: a block fits a core's cache, or fills a GPU without much memory.
_BLOCK = {"cpu": 2**18}
_LARGE_BLOCK = 2**24


class ItemDropout(nn.Module):
    """Dropout at a LoRA layer's input.

    Args:
        probability: of a number to become zero, above 0 and below 1.
        path: the layer's.
        rows: of the adapter.
    """

    def __init__(self, probability: float, path: str, rows: DropoutRows) -> None:
        super().__init__()
        self._path = path
        self._rows = rows
        self._layer = _signed(layer_seed(path))
        self._least = threshold(probability) - 2**31
        self._scale = 1.0 / (1.0 - probability)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] or [B * L, D], and the same shape back; the input itself in evaluation mode."""
        if not self.training:
            return x
        return torch.where(self._kept(x), x * self._scale, 0.0)

    @torch.no_grad()
    def _kept(self, x: Tensor) -> Tensor:
        length = self._rows.positions(x.shape, self._path)
        rows_B: Tensor = self._rows.array(
            lambda seeds_B: torch.from_numpy(seeds_B.view(np.int32)).to(x.device)
        )
        key_B1 = _mixed(rows_B ^ self._layer)[:, None]
        key_N1 = _mixed(key_B1 + _steps(length, x.device)).reshape(-1, 1)
        steps_D = _steps(x.shape[-1], x.device)
        kept_ND = torch.empty((len(key_N1), len(steps_D)), dtype=torch.bool, device=x.device)
        block = max(1, _BLOCK.get(x.device.type, _LARGE_BLOCK) // len(steps_D))
        for start in range(0, len(key_N1), block):
            part = slice(start, start + block)
            torch.ge(_mixed(key_N1[part] + steps_D), self._least, out=kept_ND[part])
        return kept_ND.view(x.shape)


def _signed(number: int) -> int:
    """The int32 with the bits of a number below 2**32."""
    return number - 2**32 if number >= 2**31 else number


def _steps(count: int, device: torch.device) -> Tensor:
    """0, STRIDE, 2 * STRIDE, ... modulo 2**32."""
    return torch.arange(count, dtype=torch.int32, device=device) * _signed(STRIDE)


def _mixed(x: Tensor) -> Tensor:
    """`fmix32`; overwrites its argument."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, None), strict=True):
        x ^= (x >> shift) & (2 ** (32 - shift) - 1)
        if multiplier is not None:
            x *= _signed(multiplier)
    return x
