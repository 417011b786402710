"""The first weights of a new LoRA adapter: drawn in NumPy, so equal on every backend.

A is uniform on [-1/sqrt(in), 1/sqrt(in)) and B is zero. That is PEFT's start
(`peft/tuners/lora/layer.py::LoraLayer.reset_lora_parameters`: `kaiming_uniform_` with a = sqrt(5),
whose bound sqrt(6 / ((1 + a**2) * in)) is 1/sqrt(in)), and mlx-lm's too. A magnitude of DoRA is not
drawn: it is the norm of the base's weights.
"""

from __future__ import annotations

import math

import numpy as np

from opsd_cli.seeds import derive_seed


def initial_a(seed: int, path: str, shape: tuple[int, int]) -> np.ndarray:
    """The first A of a layer, which depends on these arguments alone; float32 [R, in].

    Args:
        seed: the run's.
        path: the layer's, as PEFT names it within the base model: `model.layers.0.mlp.up_proj`.
        shape: rank and the layer's inputs.
    """
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "lora_A", path)))
    bound = np.float32(1.0 / math.sqrt(shape[1]))
    # 2u - 1 is exact, so one rounding is left, which is the same on every platform.
    return (2 * generator.random(shape, np.float32) - 1) * bound
