"""The trainable LoRA adapter on a frozen MLX model, kept in PEFT's format.

The layers are mlx-lm's own. Weights are named and laid out as in `adapter_model.safetensors`
wherever they leave this module: PEFT's `lora_A.weight` is [rank, in] where mlx-lm's `lora_a` is
[in, rank], PEFT scales by alpha / rank where mlx-lm takes the scale itself. So a checkpoint means
the same on either backend, and to peft and vLLM.

A teacher with other weights is the same network with other arrays in the adapter's places for the
length of one forward pass; the bare base is the network with its own linear layers back in place,
which is exact for DoRA too.
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

from backends.mlx.split_model import SplitModel
from backends.shared import adapter_files, adapter_targets
from opsd_cli.config.sections import Lora
from opsd_cli.errors import ModelError

#: What the layers here have no way to do.
_UNSUPPORTED = ("rank_pattern", "alpha_pattern", "fan_in_fan_out")
_SCALING = ("lora_alpha", "use_rslora", "use_dora")

Weights = dict[str, mx.array]


class Adapter:
    """LoRA layers inside a network.

    Args:
        network: it is changed: the named layers are wrapped, everything else is frozen.
        rank: of every layer.
        paths: the linear layers to wrap.
        settings: `adapter_config.json`, without the base's name.
    """

    def __init__(
        self,
        network: SplitModel,
        rank: int,
        paths: list[str],
        settings: Mapping[str, Any],
        dropout: float,
    ) -> None:
        self.settings = dict(settings)
        scale = adapter_files.scale_of(settings)
        kind = DoRALinear if settings["use_dora"] else LoRALinear
        linear = network.linear_layers()
        network.model.freeze()
        self._model = network.model
        self._bare = {path: linear[path] for path in paths}
        self._layers = {
            path: kind.from_base(linear[path], r=rank, scale=scale, dropout=dropout)
            for path in paths
        }
        self._put(self._layers)
        self._parts = ("lora_a", "lora_b", "m") if settings["use_dora"] else ("lora_a", "lora_b")
        for layer in self._layers.values():
            layer.linear.freeze()
            layer.dropout.eval()
        #: The weights of the start, where those were learnt before; None means the bare base.
        self.start: Weights | None = None

    @property
    def parameters(self) -> Weights:
        """What is trained, by mlx-lm's names and in its layout."""
        return {
            f"{path}.{part}": layer[part]
            for path, layer in self._layers.items()
            for part in self._parts
        }

    @property
    def size(self) -> int:
        """Trainable numbers."""
        return sum(array.size for array in self.parameters.values())

    def assign(self, weights: Mapping[str, mx.array]) -> None:
        """Take arrays by mlx-lm's names."""
        for path, layer in self._layers.items():
            for part in self._parts:
                layer[part] = weights[f"{path}.{part}"]

    def drop_out(self, training: bool) -> None:
        """Switch the adapter's dropout, and nothing else."""
        for layer in self._layers.values():
            layer.dropout.train(training)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The base alone."""
        self._put(self._bare)
        try:
            yield
        finally:
            self._put(self._layers)

    @contextlib.contextmanager
    def swapped(self, weights: Mapping[str, mx.array]) -> Iterator[None]:
        """Other weights, until the block ends; no gradient may cross it."""
        own = self.parameters
        self.assign(weights)
        try:
            yield
        finally:
            self.assign(own)

    def portable(self, weights: Mapping[str, mx.array]) -> dict[str, np.ndarray]:
        """Arrays by PEFT's names and in its layout."""
        return dict(
            adapter_files.to_peft(name, np.array(array.astype(mx.float32)))
            for name, array in weights.items()
        )

    def native(self, portable: Mapping[str, np.ndarray], what: str) -> Weights:
        """The opposite of `portable`.

        Raises:
            ModelError: names or shapes differ; `what` says whose.
        """
        hint = "it was made for another model, rank or set of layers"
        wanted = self.portable(self.parameters)
        for name, array in wanted.items():
            if name not in portable:
                raise ModelError(f"{what} does not fit the model: it lacks {name}", hint)
            if portable[name].shape != array.shape:
                shapes = f"{list(portable[name].shape)}, here {list(array.shape)}"
                raise ModelError(f"{what} does not fit the model: {name} is {shapes}", hint)
        for name in portable:
            if name not in wanted:
                raise ModelError(
                    f"{what} does not fit the model: there is no place for {name}", hint
                )
        return {
            own: mx.array(array.astype(np.float32))
            for own, array in (adapter_files.to_mlx(*pair) for pair in portable.items())
        }

    def write(self, folder: Path, base_name: str) -> None:
        """Weights and config in PEFT's format."""
        settings = self.settings | {"base_model_name_or_path": base_name}
        adapter_files.write_peft(folder, self.portable(self.parameters), settings)

    def read(self, folder: Path) -> None:
        """Take the weights in the folder.

        Raises:
            ModelError: there are none, or they belong to another shape of adapter; the weights
                then stay as they were.
        """
        theirs = adapter_files.read_settings(folder)
        for key in _SCALING:
            if theirs[key] != self.settings[key]:
                raise ModelError(
                    f"the adapter in {folder} does not fit: its {key} is {theirs[key]}, "
                    f"here {self.settings[key]}",
                    "load it with --adapter, which takes its settings too",
                )
        self.assign(self.native(adapter_files.read_weights(folder), f"the adapter in {folder}"))

    def _put(self, layers: Mapping[str, nn.Module]) -> None:
        self._model.update_modules(tree_unflatten(list(layers.items())))


def fresh_adapter(network: SplitModel, lora: Lora, seed: int) -> Adapter:
    """A new adapter, which leaves the model's outputs as they are until it is trained.

    Raises:
        ModelError: a target names no linear layer of the model.
    """
    linear = network.linear_layers()
    known = list(dict.fromkeys(path.rpartition(".")[2] for path in linear))
    unknown = [target for target in lora.targets if target not in known]
    if unknown or not lora.targets:
        raise ModelError(
            f"lora.targets: the model has no linear layer {', '.join(map(repr, unknown)) or '[]'}",
            f"its linear layers are {', '.join(known)}",
        )
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
    mx.random.seed(seed)
    return Adapter(network, lora.rank, paths, settings, lora.dropout)


def adapter_from_folder(network: SplitModel, folder: Path, dropout: float) -> Adapter:
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
    linear = network.linear_layers()
    paths = adapter_files.layers_of(weights)
    adapter_targets.require_same_layers(settings, paths, list(linear), what)
    for path in paths:
        if path not in linear:
            if path.rpartition(".")[2] in ("lm_head", "embed_tokens"):
                raise ModelError(
                    f"{what} trains the output head, which must stay frozen",
                    "use an adapter on the attention and feed-forward layers",
                )
            known = dict.fromkeys(name.rpartition(".")[2] for name in linear)
            raise ModelError(
                f"{what} does not fit the model: there is no layer {path}",
                f"the model's linear layers are {', '.join(known)}",
            )
    order = [path for path in linear if path in set(paths)]
    adapter = Adapter(network, settings["r"], order, settings, dropout)
    adapter.assign(adapter.native(weights, what))
    return adapter
