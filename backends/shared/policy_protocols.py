"""What `PolicyBase` asks of the objects that a backend's policy is made of."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from backends.interface import Memory
from backends.shared.adapter_files import Arrays


class SplitModel(Protocol):
    """What the base reads of a backend's `SplitModel`."""

    @property
    def context_limit(self) -> int | None:
        """The most positions of a sequence; None: unknown."""

    @property
    def head(self) -> Any:
        """The output head, as the backend's `loss_head` takes it."""

    @property
    def vocabulary(self) -> int:
        """Token ids that the head scores."""

    def narrow(self, vocabulary: int) -> None:
        """Score only so many ids from now on, the first ones."""


class Adapter(Protocol):
    """What the base asks of a backend's adapter (`backends.shared.adapter_base`)."""

    def at_start(self) -> AbstractContextManager[None]: ...
    def dropping_out(self, seeds_B: np.ndarray, length: int) -> AbstractContextManager[None]: ...
    def read(self, folder: Path) -> None: ...
    def write(self, folder: Path, base_name: str) -> None: ...
    def start_state(self) -> Arrays: ...
    def load_start(self, state: Arrays, what: str) -> None: ...


class Optimizer(Protocol):
    """What the base asks of a backend's optimiser (`backends.shared.optimizer_base`)."""

    @property
    def has_ema(self) -> bool: ...
    @property
    def has_gradient(self) -> bool: ...
    def take_gradient(self) -> Any: ...
    def add_gradient(self, gradient: Any) -> None: ...

    @property
    def steps(self) -> int: ...
    def using_ema(self) -> AbstractContextManager[None]: ...
    def step(self, learning_rate: float) -> float: ...
    def state(self) -> Arrays: ...
    def load(self, state: Arrays, what: str) -> None: ...


class MemoryMeter(Protocol):
    """What the base asks of a backend's `MemoryMeter`."""

    def read(self) -> Memory: ...


SplitModelT = TypeVar("SplitModelT", bound=SplitModel)
AdapterT = TypeVar("AdapterT", bound=Adapter)
OptimizerT = TypeVar("OptimizerT", bound=Optimizer)
