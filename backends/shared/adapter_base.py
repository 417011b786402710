"""Shared part of the LoRA adapters: reading, writing, checks, and the initial weights.

One copy of the base serves student and teacher. A teacher with other weights is the same model
with the adapter switched off, or with other arrays in the adapter's places for the length of one
forward pass. Weights are named and laid out as in `adapter_model.safetensors`, PEFT's format,
wherever they leave a backend, so what one writes the other reads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from backends.shared import adapter_files
from backends.shared.adapter_files import A_SUFFIX, Arrays, layer_of
from backends.shared.dropout import DropoutRows
from backends.shared.initial_weights import initial_a
from backends.shared.state_files import prefixed, section
from opsd_cli.errors import ModelError

_SCALING = ("lora_alpha", "use_rslora", "use_dora")
"""Settings that must agree for weights alone to mean the same function."""


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


ArrayT = TypeVar("ArrayT", bound=_Shaped)
"""A tensor of the backend: `torch.Tensor` or `mlx.core.array`."""


class AdapterBase(ABC, Generic[ArrayT]):
    """LoRA layers inside a model, and the initial teacher's weights for them.

    Args:
        settings: `adapter_config.json` by PEFT's keys; the base's name is added when it is written.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self._dropout_rows = DropoutRows()
        #: Weights of the initial teacher if the run started from an adapter; None: the bare base.
        self.start: dict[str, ArrayT] | None = None

    # -- for the backend to implement ------------------------------------------------------------

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, ArrayT]:
        """The trained arrays, by the backend's names and in its layout."""

    @abstractmethod
    def copy(self) -> dict[str, ArrayT]:
        """The weights as they are now, unaffected by later steps."""

    @abstractmethod
    def assign(self, weights: Mapping[str, ArrayT]) -> None:
        """Take these weights, named as `parameters` are."""

    @abstractmethod
    def off(self) -> AbstractContextManager[None]:
        """The base alone, until the block ends."""

    @abstractmethod
    def swapped(self, weights: Mapping[str, ArrayT]) -> AbstractContextManager[None]:
        """Other weights, until the block ends; no gradient may cross it."""

    @abstractmethod
    def portable(self, weights: Mapping[str, ArrayT]) -> Arrays:
        """NumPy arrays by PEFT's names and in its layout."""

    @abstractmethod
    def converted(self, portable: Mapping[str, np.ndarray]) -> dict[str, ArrayT]:
        """The opposite of `portable`, for names and shapes that are known to fit."""

    # -- shared ----------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(array.shape) for array in self.parameters.values())

    def native(self, portable: Mapping[str, np.ndarray], what: str) -> dict[str, ArrayT]:
        """The opposite of `portable`.

        Raises:
            ModelError: names or shapes differ from this adapter's; `what` says whose they are.
        """
        require_fit(portable, self.portable(self.parameters), what)
        return self.converted(portable)

    def draw(self, seed: int) -> None:
        """Take the first weights of a new adapter in place of those the library drew: A by
        `initial_a`, B and magnitudes as they are."""
        own = self.portable(self.parameters)
        drawn = {
            name: initial_a(seed, layer_of(name), (array.shape[0], array.shape[1]))
            for name, array in own.items()
            if name.endswith(A_SUFFIX)
        }
        self.assign(self.converted(own | drawn))

    def dropping_out(self, seeds_B: np.ndarray, length: int) -> AbstractContextManager[None]:
        """Forward and backward passes with dropout, until the block ends; see `DropoutRows.of`."""
        return self._dropout_rows.of(seeds_B, length)

    def mark_start(self) -> None:
        """Make the weights as they are now the initial teacher's."""
        self.start = self.copy()

    def at_start(self) -> AbstractContextManager[None]:
        """The initial teacher's weights, until the block ends."""
        return self.off() if self.start is None else self.swapped(self.start)

    def start_state(self) -> Arrays:
        """`start.*` by PEFT's names; empty if the initial teacher is the bare base."""
        return {} if self.start is None else prefixed("start", self.portable(self.start))

    def load_start(self, state: Mapping[str, np.ndarray], what: str) -> None:
        """Take the initial teacher's weights from a state, if it has weights of its own.

        Raises:
            ModelError: an array is missing or of another shape; `what` names the state.
        """
        if self.start is not None:
            ours = self.portable(self.parameters)
            self.start = self.converted(section(state, "start", ours, what))

    def write(self, folder: Path, base_name: str) -> None:
        """Write weights and settings in PEFT's format."""
        settings = self.settings | {"base_model_name_or_path": base_name}
        adapter_files.write_peft(folder, self.portable(self.parameters), settings)

    def read(self, folder: Path) -> None:
        """Take the weights in a folder.

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


def require_fit(
    theirs: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray], what: str
) -> None:
    """Check that both have the same names and shapes.

    Raises:
        ModelError: they differ; `what` says whose the first are.
    """
    hint = "it was made for another model, rank or set of layers"
    for name, array in ours.items():
        if name not in theirs:
            raise ModelError(f"{what} does not fit the model: it lacks {name}", hint)
        if theirs[name].shape != array.shape:
            shapes = f"{list(theirs[name].shape)}, here {list(array.shape)}"
            raise ModelError(f"{what} does not fit the model: {name} is {shapes}", hint)
    for name in theirs:
        if name not in ours:
            raise ModelError(f"{what} does not fit the model: there is no place for {name}", hint)


def layer_names(paths: Iterable[str]) -> list[str]:
    """The last names of layers' paths, each once, in the model's order."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def require_targets(targets: Sequence[str], paths: Iterable[str]) -> None:
    """Check `lora.targets` against the paths of the model's linear layers.

    Raises:
        ModelError: there are no targets, or one names no linear layer.
    """
    known = layer_names(paths)
    unknown = [target for target in targets if target not in known]
    if unknown or not targets:
        raise ModelError(
            f"lora.targets: the model has no linear layer {', '.join(map(repr, unknown)) or '[]'}",
            f"its linear layers are {', '.join(known)}",
        )


def misfit(what: str, reason: str, paths: Iterable[str]) -> ModelError:
    """The error for an adapter with layers that the model lacks; `paths` are the model's."""
    return ModelError(
        f"{what} does not fit the model: {reason}",
        f"the model's linear layers are {', '.join(layer_names(paths))}",
    )


def trains_the_head(what: str) -> ModelError:
    """The error for an adapter on the output head, which the loss takes to be frozen."""
    return ModelError(
        f"{what} trains the output head, which must stay frozen",
        "use an adapter on the attention and feed-forward layers",
    )
