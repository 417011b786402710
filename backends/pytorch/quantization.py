"""Linear layers of a frozen model with weights of 8 or 4 bits (`teacher.quantize`).

bitsandbytes quantises and dequantises. Each group of 64 weights has a scale of 32 bits: with int8
its weights are 255 even steps of that scale, with int4 the 16 values of NF4 (QLoRA, Dettmers et
al. 2023, arXiv:2305.14314, section 3). Weights alone are quantised. A layer's are made whole in the
model's dtype whenever it is applied, so a row's result does not depend on the rows beside it,
nor on what instructions the processor has; the library's own layers multiply in other ways for one
row, and on some CPUs. The price is time: a matrix is read and written once more for each product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backends.shared.quantization import GROUP, nothing_to_quantise, quantised_already


class QuantizedLinear(nn.Module):
    """A frozen linear layer, its weights quantised in groups of 64 along the inputs.

    Args:
        linear: the layer, whose inputs are a multiple of 64.
        bits: 8 or 4, of a weight.
        device: where to quantise, and where the layer then is.
    """

    packed: Tensor
    scales: Tensor
    code: Tensor

    def __init__(self, linear: nn.Linear, bits: int, device: torch.device) -> None:
        super().__init__()
        weight = linear.weight.detach().to(device)
        if bits == 8:
            code = _library().create_linear_map(signed=True, total_bits=8).to(device)
            packed, state = _library().quantize_blockwise(weight, code=code, blocksize=GROUP)
        else:
            packed, state = _library().quantize_4bit(weight, blocksize=GROUP, quant_type="nf4")
        self.bits = bits
        self.shape, self.dtype = weight.shape, weight.dtype
        self.register_buffer("packed", packed)
        self.register_buffer("scales", state.absmax)
        self.register_buffer("code", state.code)
        self.bias = linear.bias if linear.bias is None else linear.bias.to(device)

    @property
    def parameter_count(self) -> int:
        """Weights and biases."""
        return self.shape.numel() + (0 if self.bias is None else self.bias.numel())

    def forward(self, input: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], as the layer that was quantised."""
        return nn.functional.linear(input, self._weight(), self.bias)

    def _weight(self) -> Tensor:
        """[outputs, inputs]"""
        state = _library().QuantState(
            absmax=self.scales, shape=self.shape, code=self.code, blocksize=GROUP,
            quant_type="nf4" if self.bits == 4 else None, dtype=self.dtype,
        )  # fmt: skip
        if self.bits == 8:
            return _library().dequantize_blockwise(self.packed, state)
        return _library().dequantize_4bit(self.packed, state)


def quantise(model: Any, bits: int, device: torch.device, name: str) -> None:
    """Put `QuantizedLinear` in the place of a frozen model's linear layers, the head excepted.

    Layers whose inputs are no multiple of 64 stay as they are.

    Args:
        model: transformers' causal language model.
        bits: 8 or 4.
        device: where the quantised layers then are; the rest of the model stays where it is.
        name: of the model, for errors.

    Raises:
        ModelError: it is quantised already, or has no layer to quantise.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        raise quantised_already(name)
    head = model.get_output_embeddings()
    chosen = [
        path
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head and layer.in_features % GROUP == 0
    ]
    if not chosen:
        raise nothing_to_quantise(name)
    for path in chosen:
        model.set_submodule(path, QuantizedLinear(model.get_submodule(path), bits, device))


def quantised_layers(model: nn.Module) -> list[QuantizedLinear]:
    """The quantised layers of a model."""
    return [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]


def _library() -> Any:
    """bitsandbytes' functions, of an optional package."""
    import bitsandbytes.functional

    return bitsandbytes.functional
