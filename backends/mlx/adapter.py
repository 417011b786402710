"""The trainable LoRA adapter on a frozen MLX model, of mlx-lm's own layers.

PEFT's `lora_A.weight` is [rank, in] where mlx-lm's `lora_a` is [in, rank], and PEFT scales by
alpha / rank where mlx-lm takes the scale itself; `backends.shared.adapter_files` converts exactly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear

from backends.mlx.dropout import ItemDropout
from backends.mlx.split_model import SplitModel
from backends.shared import adapter_files, adapter_targets
from backends.shared.adapter_base import AdapterBase, misfit, require_targets, trains_the_head
from backends.shared.adapter_files import Arrays
from opsd_cli.config.sections import Lora
from opsd_cli.errors import ModelError

_UNSUPPORTED = ("rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""Settings that mlx-lm's layers have no counterpart for."""

Weights = dict[str, mx.array]


class Adapter(AdapterBase[mx.array]):
    """LoRA layers inside a model, by mlx-lm's names and in its layout.

    Args:
        split_model: it is changed: the named layers are wrapped, everything else is frozen.
        paths: the linear layers to wrap.
        settings: `adapter_config.json` by PEFT's keys, without the base's name.
        dropout: of this run.
    """

    def __init__(
        self,
        split_model: SplitModel,
        paths: list[str],
        settings: Mapping[str, Any],
        dropout: float,
    ) -> None:
        super().__init__(settings)
        scale, rank = adapter_files.scale_of(settings), settings["r"]
        kind = DoRALinear if settings["use_dora"] else LoRALinear
        linear = split_model.linear_layers()
        split_model.model.freeze()
        self._model = split_model.model
        self._bare = {path: linear[path] for path in paths}
        self._layers = {
            path: kind.from_base(linear[path], r=rank, scale=scale, dropout=dropout)
            for path in paths
        }
        self._put(self._layers)
        self._parts = ("lora_a", "lora_b", "m") if settings["use_dora"] else ("lora_a", "lora_b")
        for path, layer in self._layers.items():
            layer.linear.freeze()
            if dropout > 0:
                layer.dropout = ItemDropout(dropout, path, self._dropout_rows)
            layer.dropout.eval()

    @property
    def parameters(self) -> Weights:
        """As `AdapterBase.parameters`, by mlx-lm's names."""
        return {
            f"{path}.{part}": layer[part]
            for path, layer in self._layers.items()
            for part in self._parts
        }

    def copy(self) -> Weights:
        """As `AdapterBase.copy`; arrays do not change, so no copy is needed."""
        return self.parameters

    def assign(self, weights: Mapping[str, mx.array]) -> None:
        """As `AdapterBase.assign`."""
        for path, layer in self._layers.items():
            for part in self._parts:
                layer[part] = weights[f"{path}.{part}"]

    def set_dropout(self, training: bool) -> None:
        """Switch the adapter's dropout, and nothing else."""
        for layer in self._layers.values():
            layer.dropout.train(training)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """As `AdapterBase.off`: the model has its own linear layers again, exact for DoRA too."""
        self._put(self._bare)
        try:
            yield
        finally:
            self._put(self._layers)

    @contextlib.contextmanager
    def swapped(self, weights: Mapping[str, mx.array]) -> Iterator[None]:
        """As `AdapterBase.swapped`."""
        own = self.parameters
        self.assign(weights)
        try:
            yield
        finally:
            self.assign(own)

    def portable(self, weights: Mapping[str, mx.array]) -> Arrays:
        """As `AdapterBase.portable`, float32."""
        return dict(
            adapter_files.to_peft(name, np.array(array.astype(mx.float32)))
            for name, array in weights.items()
        )

    def converted(self, portable: Mapping[str, np.ndarray]) -> Weights:
        """As `AdapterBase.converted`, float32."""
        return {
            own: mx.array(array.astype(np.float32))
            for own, array in (adapter_files.to_mlx(*pair) for pair in portable.items())
        }

    def _put(self, layers: Mapping[str, nn.Module]) -> None:
        self._model.update_modules(tree_unflatten(list(layers.items())))


def fresh_adapter(split_model: SplitModel, lora: Lora, seed: int) -> Adapter:
    """A new adapter, which leaves the model's outputs as they are until it is trained.

    Raises:
        ModelError: a target names no linear layer of the model.
    """
    linear = split_model.linear_layers()
    require_targets(lora.targets, linear)
    paths = [path for path in linear if path.rpartition(".")[2] in lora.targets]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.targets),
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
        "bias": "none",
    }
    adapter = Adapter(split_model, paths, settings, lora.dropout)
    adapter.draw(seed)
    return adapter


def adapter_from_folder(split_model: SplitModel, folder: Path, dropout: float) -> Adapter:
    """The adapter in a folder, with its own rank, scale and targets, and this run's dropout.

    Raises:
        ModelError: the folder holds no LoRA adapter, or one that does not fit the model.
    """
    settings = adapter_files.read_settings(folder)
    weights = adapter_files.read_weights(folder)
    what = f"the adapter in {folder}"
    extra = [key for key in _UNSUPPORTED if settings.get(key)]
    if extra:
        raise ModelError(
            f"{what} does more than LoRA here can: {', '.join(extra)}",
            "use an adapter of one rank on linear layers alone",
        )
    adapter_files.require_rank(settings, weights, what)
    linear = split_model.linear_layers()
    paths = adapter_files.layers_of(weights)
    adapter_targets.require_same_layers(settings, paths, list(linear), what)
    for path in paths:
        if path not in linear:
            if path.rpartition(".")[2] in ("lm_head", "embed_tokens"):
                raise trains_the_head(what)
            raise misfit(what, f"there is no layer {path}", linear)
    order = [path for path in linear if path in set(paths)]
    adapter = Adapter(split_model, order, settings, dropout)
    adapter.assign(adapter.native(weights, what))
    return adapter
