"""AdamW on the adapter: mlx's own, with the bias correction that it leaves out by default.

PyTorch has no switch for that correction, and a checkpoint must continue on either backend.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.optimizers
import numpy as np

from backends.mlx.adapter import Adapter, Weights
from backends.shared.optimizer_base import MOMENTS, OptimizerBase
from opsd_cli.config.sections import Optimizer

_OWN = dict(zip(MOMENTS, ("m", "v"), strict=True))
"""mlx's name of each moment."""


class AdapterOptimizer(OptimizerBase[mx.array]):
    """See `OptimizerBase`."""

    def __init__(self, adapter: Adapter, config: Optimizer, ema_decay: float | None) -> None:
        super().__init__(adapter, config, ema_decay)
        self.gradients: Weights = {}
        self._adamw = self._fresh()

    def _fresh(self) -> mlx.optimizers.AdamW:
        adamw = mlx.optimizers.AdamW(
            learning_rate=0.0,
            betas=list(self.config.betas),
            weight_decay=self.config.weight_decay,
            bias_correction=True,
        )
        adamw.init(self.adapter.parameters)
        return adamw

    def add(self, gradients: Mapping[str, mx.array]) -> None:
        """Add to the gradients, and compute the sums."""
        for name, gradient in gradients.items():
            held = self.gradients.get(name)
            self.gradients[name] = gradient if held is None else held + gradient
        mx.eval(self.gradients)

    def step(self, learning_rate: float) -> float:
        """As `OptimizerBase.step`."""
        parameters = self.adapter.parameters
        gradients = {
            name: self.gradients.get(name, mx.zeros_like(p)) for name, p in parameters.items()
        }
        total = mx.sqrt(sum((mx.square(g).sum() for g in gradients.values()), mx.array(0.0)))
        norm = float(total)
        self.require_finite(norm)
        self.drop_gradients()
        factor = min(1.0, self.config.max_grad_norm / (norm + 1e-6))
        if factor < 1.0:
            gradients = {name: g * factor for name, g in gradients.items()}
        self._adamw.learning_rate = learning_rate
        updated = self._adamw.apply_gradients(gradients, parameters)
        self.adapter.assign(updated)
        self.update_ema()
        mx.eval(updated, self._adamw.state, self.ema or {})
        return norm

    def _interpolated(self, start: mx.array, end: mx.array, share: float) -> mx.array:
        return start + share * (end - start)

    def drop_gradients(self) -> None:
        """As `OptimizerBase.drop_gradients`."""
        self.gradients = {}

    @property
    def has_gradient(self) -> bool:
        """As `OptimizerBase.has_gradient`."""
        return bool(self.gradients)

    def take_gradient(self) -> mx.array:
        """As `OptimizerBase.take_gradient`."""
        parts = [
            self.gradients.get(name, mx.zeros_like(p)).reshape(-1).astype(mx.float32)
            for name, p in sorted(self.adapter.parameters.items())
        ]
        self.drop_gradients()
        vector = mx.concatenate(parts)
        mx.eval(vector)
        return vector

    def add_gradient(self, gradient: mx.array) -> None:
        """As `OptimizerBase.add_gradient`."""
        ordered = sorted(self.adapter.parameters.items())
        ends = np.cumsum([p.size for _, p in ordered])[:-1].tolist()
        parts = mx.split(gradient, ends)
        self.add(
            {
                name: part.reshape(p.shape).astype(p.dtype)
                for (name, p), part in zip(ordered, parts, strict=True)
            }
        )

    @property
    def steps(self) -> int:
        """As `OptimizerBase.steps`."""
        return int(self._adamw.step)

    def moments(self) -> dict[str, Weights]:
        """As `OptimizerBase.moments`."""
        return {
            moment: {name: self._adamw.state[name][own] for name in self.adapter.parameters}
            for moment, own in _OWN.items()
        }

    def continue_from(self, steps: int, moments: Mapping[str, Mapping[str, mx.array]]) -> None:
        """As `OptimizerBase.continue_from`."""
        self._adamw = self._fresh()
        for moment, arrays in moments.items():
            for name, array in arrays.items():
                self._adamw.state[name][_OWN[moment]] = array
        self._adamw.state["step"] = mx.array(steps, mx.uint64)
