"""Linear layers with weights of 8 or 4 bits: their error, what they take, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from backends.pytorch.quantization import QuantizedLinear, quantise, quantised_layers
from backends.shared.quantization import GROUP
from opsd_cli.errors import ModelError
from tests.support import tiny_models

if not os.environ.get("CI"):
    pytest.importorskip("bitsandbytes")

CPU = torch.device("cpu")
#: The values of NF4 (bitsandbytes' table, from the QLoRA paper's appendix E).
NF4 = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2 * GROUP, 24)


def whole(layer: QuantizedLinear) -> torch.Tensor:
    """The weights [outputs, inputs] that a layer multiplies with."""
    identity = torch.eye(layer.shape[1])
    bias = 0.0 if layer.bias is None else layer.bias
    return (layer(identity) - bias).T


def in_groups(weight: torch.Tensor) -> torch.Tensor:
    """[groups, 64], each divided by its largest magnitude."""
    groups = weight.reshape(-1, GROUP)
    return groups / groups.abs().amax(dim=1, keepdim=True)


def test_eight_bits_are_even_steps_of_each_groups_largest_weight(linear: nn.Linear) -> None:
    layer = QuantizedLinear(linear, 8, CPU)
    steps = in_groups(whole(layer)) * 127
    torch.testing.assert_close(steps, steps.round(), atol=2e-2, rtol=0)
    error = (in_groups(linear.weight) * 127 - steps).abs().max()
    assert 0.1 < error < 0.55


def test_four_bits_are_the_values_of_nf4(linear: nn.Linear) -> None:
    layer = QuantizedLinear(linear, 4, CPU)
    found, wanted = in_groups(whole(layer)), in_groups(linear.weight)
    table = torch.tensor(NF4)
    nearest = table[(wanted[..., None] - table).abs().argmin(dim=-1)]
    torch.testing.assert_close(found, nearest, atol=1e-3, rtol=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_layer_is_small_and_moves_with_its_model(linear: nn.Linear, bits: int) -> None:
    layer = QuantizedLinear(linear, bits, CPU)
    weights = linear.weight.numel()
    assert layer.packed.numel() * layer.packed.element_size() == weights * bits // 8
    assert layer.scales.numel() == weights // GROUP
    assert layer.parameter_count == weights + 24
    assert layer.to("meta").packed.device.type == "meta"


@pytest.mark.parametrize("bits", [8, 4])
def test_row_does_not_depend_on_the_rows_beside_it(linear: nn.Linear, bits: int) -> None:
    layer = QuantizedLinear(linear, bits, CPU)
    rows = torch.randn(7, 2 * GROUP)
    expected = rows @ whole(layer).T + linear.bias
    torch.testing.assert_close(layer(rows), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(rows[3:4])[0], layer(rows)[3], atol=1e-6, rtol=1e-6)


def test_layer_has_the_dtype_of_its_model(linear: nn.Linear) -> None:
    layer = QuantizedLinear(linear.bfloat16(), 8, CPU)
    rows = torch.randn(2, 2 * GROUP)
    assert layer(rows.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(rows).dtype == torch.bfloat16


def test_model_keeps_its_head_and_layers_of_other_widths(tmp_path: Path) -> None:
    settings = {
        **tiny_models.SETTINGS["qwen3"], "hidden_size": 64, "intermediate_size": 48,
        "tie_word_embeddings": False,
    }  # fmt: skip
    folder = tiny_models.build(tmp_path / "model", settings, seed=3, pad_is_end=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    quantise(model, 8, CPU, "tiny")
    assert isinstance(model.lm_head, nn.Linear)
    block = model.model.layers[0]
    assert isinstance(block.mlp.up_proj, QuantizedLinear)
    assert isinstance(block.mlp.down_proj, nn.Linear)  # its inputs are 48
    assert quantised_layers(model)


def test_models_that_cannot_be_quantised_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.build(
        tmp_path / "model", tiny_models.SETTINGS["qwen3"], seed=3, pad_is_end=True
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ModelError, match="no linear layer of tiny has a width"):
        quantise(model, 8, CPU, "tiny")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ModelError, match="tiny are quantised already"):
        quantise(model, 8, CPU, "tiny")
