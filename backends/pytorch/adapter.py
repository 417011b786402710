"""The trainable LoRA adapter on a frozen base, and the other weights it can be given for a while.

One copy of the base serves student and teacher. A teacher with other weights is the same network
with the adapter switched off, or with other tensors swapped into the adapter's parameters for the
length of one forward pass: a pointer each, no copy.

Weights are named as in `adapter_model.safetensors`, PEFT's format, wherever they are written or
compared, so what one backend writes another reads.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from backends.shared import adapter_files, adapter_targets
from opsd_cli.config.sections import Lora
from opsd_cli.errors import ModelError
from opsd_cli.hub import first_line

#: What must agree for weights alone to mean the same function.
_SCALING = ("lora_alpha", "use_rslora", "use_dora")


class Adapter:
    """A LoRA adapter inside a model.

    Args:
        model: PEFT's wrapper.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self.config: LoraConfig = model.peft_config["default"]
        trainable = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        self.parameters: dict[str, nn.Parameter] = {
            name: trainable[tensor.data_ptr()] for name, tensor in sorted(state.items())
        }
        #: The weights of the start, where those were learnt before; None means the bare base.
        self.start: dict[str, Tensor] | None = None

    @property
    def size(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def copy(self) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The base alone."""
        with self.model.disable_adapter():
            yield

    @contextlib.contextmanager
    def swapped(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Other weights, until the block ends; no gradient may cross it."""
        own = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data = weights[name]
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = own[name]

    def write(self, folder: Path, base_name: str) -> None:
        """Weights and config in PEFT's format."""
        weights = {name: p.detach().cpu().numpy() for name, p in self.parameters.items()}
        settings = self.config.to_dict() | {
            "base_model_name_or_path": base_name,
            "inference_mode": True,
        }
        # PEFT keeps target names in a set, whose order differs from run to run.
        settings = {k: sorted(v) if isinstance(v, set) else v for k, v in settings.items()}
        adapter_files.write_peft(folder, weights, settings)

    def read(self, folder: Path) -> None:
        """Take the weights in the folder.

        Raises:
            ModelError: there are none, or they belong to another shape of adapter; the weights
                then stay as they were.
        """
        settings = adapter_files.read_settings(folder)
        for key in _SCALING:
            theirs, ours = settings[key], getattr(self.config, key)
            if theirs != ours:
                raise ModelError(
                    f"the adapter in {folder} does not fit: its {key} is {theirs}, here {ours}",
                    "load it with --adapter, which takes its settings too",
                )
        self.assign(_tensors(folder), f"the adapter in {folder}")

    def assign(self, weights: Mapping[str, Tensor], what: str) -> None:
        """Copy weights in, all or none.

        Raises:
            ModelError: names or shapes differ; `what` says whose.
        """
        require_fit(weights, self.parameters, what)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])


def fresh_adapter(model: Any, lora: Lora, seed: int) -> Adapter:
    """A new adapter, which leaves the model's outputs as they are until it is trained.

    Raises:
        ModelError: a target names no linear layer of the model.
    """
    layers = linear_layers(model)
    unknown = [target for target in lora.targets if target not in layers]
    if unknown or not lora.targets:
        raise ModelError(
            f"lora.targets: the model has no linear layer {', '.join(map(repr, unknown)) or '[]'}",
            f"its linear layers are {', '.join(layers)}",
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=set(lora.targets),
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
    )
    torch.manual_seed(seed)
    return Adapter(_wrapped(model, config))


def adapter_from_folder(model: Any, folder: Path, dropout: float, seed: int) -> Adapter:
    """The adapter in a folder, with its own rank, scale and targets, and this run's dropout.

    Raises:
        ModelError: the folder holds no LoRA adapter, or one that does not fit the model.
    """
    settings, weights = adapter_files.read_settings(folder), adapter_files.read_weights(folder)
    what = f"the adapter in {folder}"
    adapter_files.require_rank(settings, weights, what)
    paths = adapter_files.layers_of(weights)
    adapter_targets.require_same_layers(settings, paths, _linear_paths(model), what)
    config = _config_of(settings, paths, dropout, what)
    torch.manual_seed(seed)
    try:
        wrapped = _wrapped(model, config)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"the adapter in {folder} does not fit the model: {first_line(error)}",
            f"the model's linear layers are {', '.join(linear_layers(model))}",
        ) from error
    head = wrapped.get_base_model().get_output_embeddings()
    if hasattr(head, "lora_A"):
        raise ModelError(
            f"the adapter in {folder} trains the output head, which must stay frozen",
            "use an adapter on the attention and feed-forward layers",
        )
    adapter = Adapter(wrapped)
    adapter.assign({name: torch.tensor(array) for name, array in weights.items()}, what)
    return adapter


def _config_of(
    settings: Mapping[str, Any], paths: list[str], dropout: float, what: str
) -> LoraConfig:
    """PEFT's config of an adapter with weights for these layers; expressions are made names."""
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
    """Of the linear layers that can have an adapter."""
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


def linear_layers(model: Any) -> list[str]:
    """Last names of the linear layers that can have an adapter, in the model's order."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in _linear_paths(model)))


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The adapter's weights, on the CPU."""
    return {name: torch.tensor(a) for name, a in adapter_files.read_weights(folder).items()}


def require_fit(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], what: str) -> None:
    """Raise `ModelError` unless both have the same names and shapes."""
    hint = "it was made for another model, rank or set of layers"
    for name, tensor in ours.items():
        if name not in theirs:
            raise ModelError(f"{what} does not fit the model: it lacks {name}", hint)
        if theirs[name].shape != tensor.shape:
            shapes = f"{list(theirs[name].shape)}, here {list(tensor.shape)}"
            raise ModelError(f"{what} does not fit the model: {name} is {shapes}", hint)
    for name in theirs:
        if name not in ours:
            raise ModelError(f"{what} does not fit the model: there is no place for {name}", hint)
