"""The frozen output head of a transformers model, and the way back through it.

Full-vocabulary rows stay whole, so pointwise clipping, top-k and tail are exact whatever the chunk.
Two sizes are chosen for speed. A *chunk* is what one matrix product sees. On a CPU the elementwise
work inside it goes by *blocks* of a few rows, small enough for the temporaries to stay in cache:
measured at V = 151,936 on one core, JSD of 64 rows takes 77 ms in blocks of 4 against 300 ms in
one. A chunk is smaller where memory is short (`backends.shared.chunk_size`).
"""

from __future__ import annotations

from torch import Tensor, mm

from backends.pytorch import device_memory
from backends.pytorch.traits import CPU, CUDA
from backends.shared.chunk_size import chunk_size

_CHUNK_BYTES_CPU = CPU.memory.chunk_bytes
_CHUNK_BYTES_GPU = CUDA.memory.chunk_bytes
"""Bytes of one role's float32 logits in a chunk; about seven times this is alive at the peak on a
GPU, and a little over twice on a CPU, where blocks bound the rest."""

_BLOCK_BYTES_CPU = 5 * 2**19
"""Bytes of one role's float32 logits in a block: five such arrays fit a last-level cache."""


class Head:
    """The output projection, which both roles of one model share.

    Args:
        weight_VD: the projection; frozen.
        bias_V: frozen, for a head that has one.
        softcap: for heads that end in `cap * tanh(logits / cap)`.
        vocabulary: tokens the tokenizer has; rows of the head beyond it are padding and take no
            part, as if both roles' logits there were -inf. None takes all rows.
    """

    def __init__(
        self,
        weight_VD: Tensor,
        bias_V: Tensor | None = None,
        softcap: float | None = None,
        vocabulary: int | None = None,
    ) -> None:
        # A slice of rows is a view: leaving the padding out costs nothing.
        self.weight_VD = weight_VD.detach()[:vocabulary]
        self.bias_V = None if bias_V is None else bias_V.detach()[:vocabulary]
        self.softcap = softcap
        self.row_bytes = 4 * len(self.weight_VD)
        self.on_cpu = weight_VD.device.type == "cpu"

    def chunk_tokens(self, requested: int | None, tokens: int) -> int:
        """Tokens in a chunk, of `tokens` in all."""
        usual = _CHUNK_BYTES_CPU if self.on_cpu else _CHUNK_BYTES_GPU
        free = device_memory.free(self.weight_VD.device)
        return chunk_size(requested, tokens, self.row_bytes, usual, free)

    def block_tokens(self, chunk_tokens: int) -> int:
        """Tokens in a block of a chunk."""
        return max(1, _BLOCK_BYTES_CPU // self.row_bytes) if self.on_cpu else chunk_tokens

    def buffer(self, chunk_tokens: int) -> Tensor:
        """Room for the logits of a chunk, used again by every chunk: fresh memory is slow."""
        return self.weight_VD.new_empty(chunk_tokens, len(self.weight_VD))

    def logits(self, hidden_ND: Tensor, buffer: Tensor) -> Tensor:
        """[N, V] in the head's dtype, the first N rows of `buffer`."""
        hidden_ND = hidden_ND.to(self.weight_VD.dtype)
        logits_NV = mm(hidden_ND, self.weight_VD.T, out=buffer[: len(hidden_ND)])
        if self.bias_V is not None:
            logits_NV += self.bias_V
        if self.softcap is not None:
            logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_NV

    def overwrite(self, logits_NV: Tensor, gradient_NV: Tensor) -> None:
        """Replace logits, in their own buffer, by the gradient before the soft cap."""
        if self.softcap is not None:
            gradient_NV *= 1.0 - (logits_NV.to(gradient_NV.dtype) / self.softcap) ** 2
        logits_NV.copy_(gradient_NV)

    def back(self, gradient_NV: Tensor) -> Tensor:
        """Gradient with respect to the hidden states, [N, D]."""
        return gradient_NV @ self.weight_VD
