"""The trainable LoRA adapter on a frozen transformers model, made by PEFT."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from backends.pytorch.dropout import ItemDropout
from backends.shared import adapter_files, adapter_targets
from backends.shared.adapter_base import AdapterBase, misfit, require_targets, trains_the_head
from backends.shared.adapter_files import Arrays, layer_of
from opsd_cli.config.sections import Lora
from opsd_cli.hub import first_line


class Adapter(AdapterBase[Tensor]):
    """A LoRA adapter inside a model, named as in its file.

    Args:
        model: PEFT's wrapper.
    """

    def __init__(self, model: PeftModel) -> None:
        settings = model.peft_config["default"].to_dict() | {"inference_mode": True}
        # PEFT keeps target names in a set, whose order differs from run to run.
        super().__init__({k: sorted(v) if isinstance(v, set) else v for k, v in settings.items()})
        self.model = model
        if settings["lora_dropout"] > 0:
            layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
            for name, layer in layers.items():
                dropout = ItemDropout(settings["lora_dropout"], layer_of(name), self._dropout_rows)
                layer.lora_dropout["default"] = dropout
        trainable = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        self._parameters: dict[str, nn.Parameter] = {
            name: trainable[tensor.data_ptr()] for name, tensor in sorted(state.items())
        }

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """As `AdapterBase.parameters`, by PEFT's names."""
        return self._parameters

    def copy(self) -> dict[str, Tensor]:
        """As `AdapterBase.copy`."""
        return {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """As `AdapterBase.assign`, by a copy."""
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """As `AdapterBase.off`."""
        with self.model.disable_adapter():
            yield

    @contextlib.contextmanager
    def swapped(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """As `AdapterBase.swapped`, by replacing each tensor's data pointer."""
        own = {name: parameter.data for name, parameter in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = weights[name]
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]

    def portable(self, weights: Mapping[str, Tensor]) -> Arrays:
        """As `AdapterBase.portable`; arrays may share memory with the tensors."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}

    def converted(self, portable: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """As `AdapterBase.converted`; new tensors beside the parameters."""
        return {
            name: torch.tensor(array).to(self._parameters[name]) for name, array in portable.items()
        }


def fresh_adapter(model: Any, lora: Lora, seed: int) -> Adapter:
    """A new adapter, which leaves the model's outputs as they are until it is trained.

    Raises:
        ModelError: a target names no linear layer of the model.
    """
    require_targets(lora.targets, _linear_paths(model))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=set(lora.targets),
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
    )
    adapter = Adapter(_wrapped(model, config))
    adapter.draw(seed)
    return adapter


def adapter_from_folder(model: Any, folder: Path, dropout: float) -> Adapter:
    """The adapter in a folder, with its own rank, scale and targets, and this run's dropout.

    Raises:
        ModelError: the folder holds no LoRA adapter, or one that does not fit the model.
    """
    settings, weights = adapter_files.read_settings(folder), adapter_files.read_weights(folder)
    what = f"the adapter in {folder}"
    adapter_files.require_rank(settings, weights, what)
    paths, linear = adapter_files.layers_of(weights), _linear_paths(model)
    adapter_targets.require_same_layers(settings, paths, linear, what)
    config = _config_of(settings, paths, dropout, what)
    try:
        wrapped = _wrapped(model, config)
    except (ValueError, TypeError) as error:
        raise misfit(what, first_line(error), linear) from error
    if hasattr(wrapped.get_base_model().get_output_embeddings(), "lora_A"):
        raise trains_the_head(what)
    adapter = Adapter(wrapped)
    adapter.assign(adapter.native(weights, what))
    return adapter


def _config_of(
    settings: Mapping[str, Any], paths: list[str], dropout: float, what: str
) -> LoraConfig:
    """PEFT's config of an adapter with weights for these layers; expressions become names."""
    targets, excluded = settings.get("target_modules"), settings.get("exclude_modules")
    plain = isinstance(targets, list) and not isinstance(excluded, str)
    blocks = settings.get("layers_to_transform") if plain else None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        target_modules=set(targets if plain and targets is not None else paths),
        exclude_modules=excluded if plain else None,
        layers_to_transform=blocks,
        layers_pattern=settings.get("layers_pattern") if blocks is not None else None,
        rank_pattern=adapter_targets.by_path(settings.get("rank_pattern"), paths, what),
        alpha_pattern=adapter_targets.by_path(settings.get("alpha_pattern"), paths, what),
        lora_dropout=dropout,
        use_dora=settings["use_dora"],
        use_rslora=settings["use_rslora"],
        fan_in_fan_out=bool(settings.get("fan_in_fan_out", False)),
    )


def _linear_paths(model: Any) -> list[str]:
    """Paths of the linear layers that can have an adapter."""
    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def _wrapped(model: Any, config: LoraConfig) -> PeftModel:
    with warnings.catch_warnings():
        # PEFT asks transformers for names that the newest transformers calls deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        # A base is often a folder here and a hub id where the adapter was made.
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path.*")
        return get_peft_model(model, config)
