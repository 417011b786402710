"""Shared part of the optimisers: the EMA teacher, and the state that a resume needs.

Clipping is by the global norm. A parameter that no gradient reached counts as having gradient
zero, so all parameters are always at the same step, and one number says where a run stands.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Generic

import numpy as np

from backends.shared.adapter_base import AdapterBase, ArrayT
from backends.shared.adapter_files import Arrays
from backends.shared.state_files import entry, prefixed, section
from opsd_cli.config.sections import Optimizer
from opsd_cli.errors import TrainingError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""First and second moment, by the names that PyTorch gives them and checkpoints hold."""


class OptimizerBase(ABC, Generic[ArrayT]):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over an adapter.

    Args:
        adapter: the parameters.
        config: betas, weight decay and the norm to clip to.
        ema_decay: share of the EMA (exponential moving average) kept at each step; None keeps no
            EMA.
    """

    def __init__(
        self, adapter: AdapterBase[ArrayT], config: Optimizer, ema_decay: float | None
    ) -> None:
        self.adapter = adapter
        self.config = config
        self.ema_decay = ema_decay
        #: EMA of the weights, initially the weights at the start; None: none is kept.
        self.ema: dict[str, ArrayT] | None = None if ema_decay is None else adapter.copy()

    # -- for the backend to implement ------------------------------------------------------------

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """Clip, step, call `update_ema`, drop the gradients; returns the norm before clipping.

        Raises:
            TrainingError: that norm is not finite; weights, moments and EMA stay as they were.
        """

    @abstractmethod
    def drop_gradients(self) -> None:
        """Forget the gradients accumulated so far."""

    @property
    @abstractmethod
    def has_gradient(self) -> bool:
        """True if a gradient has been accumulated since the last step."""

    @abstractmethod
    def take_gradient(self) -> ArrayT:
        """The accumulated gradient as one float32 vector, parameters in the order of their names;
        it is dropped here. Zeros where none was accumulated."""

    @abstractmethod
    def add_gradient(self, gradient: ArrayT) -> None:
        """Add a vector that `take_gradient` gave, or a sum of such, to the accumulated gradient."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps taken."""

    @abstractmethod
    def moments(self) -> dict[str, dict[str, ArrayT]]:
        """For each of `MOMENTS` the arrays by the adapter's names; `steps` must not be 0."""

    @abstractmethod
    def continue_from(self, steps: int, moments: Mapping[str, Mapping[str, ArrayT]]) -> None:
        """Take steps and moments, named as in `moments`; none at step 0."""

    @abstractmethod
    def _interpolated(self, start: ArrayT, end: ArrayT, share: float) -> ArrayT:
        """start + share * (end - start), without gradient; it may overwrite `start`."""

    # -- shared ----------------------------------------------------------------------------------

    @property
    def has_ema(self) -> bool:
        """True if an EMA of the weights is kept."""
        return self.ema is not None

    def update_ema(self) -> None:
        """Move the EMA towards the weights after a step: ema = decay * ema + (1 - decay) * weights.

        Does nothing if no EMA is kept.
        """
        if self.ema is None or self.ema_decay is None:
            return
        weights = self.adapter.parameters
        self.ema = {
            name: self._interpolated(average, weights[name], 1.0 - self.ema_decay)
            for name, average in self.ema.items()
        }

    def using_ema(self) -> AbstractContextManager[None]:
        """The EMA in place of the adapter's weights, until the block ends."""
        assert self.ema is not None
        return self.adapter.swapped(self.ema)

    def require_finite(self, norm: float) -> None:
        """Check the norm of the gradient; the gradients are dropped where it is not finite.

        Raises:
            TrainingError: it is infinite or NaN.
        """
        if not math.isfinite(norm):
            self.drop_gradients()
            raise TrainingError(
                f"the gradient is not finite (norm {norm}); the step was not taken",
                "lower optimizer.learning_rate, or resume from the last checkpoint",
            )

    def state(self) -> Arrays:
        """`step`, `exp_avg.*`, `exp_avg_sq.*`, `ema.*` by PEFT's names; no moments at step 0."""
        state = {"step": np.array(float(self.steps), np.float32)}
        if self.steps:
            for moment, arrays in self.moments().items():
                state |= prefixed(moment, self.adapter.portable(arrays))
        if self.ema is not None:
            state |= prefixed("ema", self.adapter.portable(self.ema))
        return state

    def load(self, state: Mapping[str, np.ndarray], what: str) -> None:
        """Continue from `state()`'s arrays.

        Raises:
            ModelError: an array is missing or of another shape; `what` names the state.
        """
        ours = self.adapter.portable(self.adapter.parameters)
        steps = int(entry(state, "step", (), what))
        moments = {
            moment: self.adapter.converted(section(state, moment, ours, what))
            for moment in (MOMENTS if steps else ())
        }
        if self.ema is not None:
            self.ema = self.adapter.converted(section(state, "ema", ours, what))
        self.continue_from(steps, moments)
        self.drop_gradients()
