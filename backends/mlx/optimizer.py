"""One AdamW step on the adapter, the moving average of its weights, and what a resume needs.

The step itself is mlx's, with the bias correction that it leaves out by default and PyTorch does
not have a switch for. Clipping is by the global norm. The state is written under the names that the
PyTorch backend uses and in PEFT's layout, so that a checkpoint goes on on either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import mlx.core as mx
import mlx.optimizers
import numpy as np

from backends.mlx.adapter import Adapter, Weights
from opsd_cli.config.sections import Optimizer
from opsd_cli.errors import ModelError, TrainingError

_MOMENTS = {"exp_avg": "m", "exp_avg_sq": "v"}


class AdapterOptimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over an adapter.

    Args:
        adapter: what is trained.
        config: betas, weight decay and the norm to clip to.
        ema_decay: share of the moving average kept at each step; None keeps no average.
    """

    def __init__(self, adapter: Adapter, config: Optimizer, ema_decay: float | None) -> None:
        self.adapter = adapter
        self.max_norm = config.max_grad_norm
        self.ema_decay = ema_decay
        #: The moving average, starting at the weights of the start; None where none is kept.
        self.ema: Weights | None = None if ema_decay is None else adapter.parameters
        self.gradients: Weights = {}
        self._config = config
        self._adamw = self._fresh()

    def _fresh(self) -> mlx.optimizers.AdamW:
        adamw = mlx.optimizers.AdamW(
            learning_rate=0.0,
            betas=list(self._config.betas),
            weight_decay=self._config.weight_decay,
            bias_correction=True,
        )
        adamw.init(self.adapter.parameters)
        return adamw

    def add(self, gradients: Mapping[str, mx.array]) -> None:
        """Add to the gradients, and have them computed."""
        for name, gradient in gradients.items():
            held = self.gradients.get(name)
            self.gradients[name] = gradient if held is None else held + gradient
        mx.eval(self.gradients)

    def step(self, learning_rate: float) -> float:
        """Clip, step, update the average, drop the gradients; returns the norm before clipping.

        Raises:
            TrainingError: that norm is not finite; weights, moments and average stay as they were.
        """
        parameters = self.adapter.parameters
        gradients = {
            name: self.gradients.get(name, mx.zeros_like(p)) for name, p in parameters.items()
        }
        self.gradients = {}
        total = mx.sqrt(sum((mx.square(g).sum() for g in gradients.values()), mx.array(0.0)))
        norm = float(total)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient is not finite (norm {norm}); the step was not taken",
                "lower optimizer.learning_rate, or resume from the last checkpoint",
            )
        factor = min(1.0, self.max_norm / (norm + 1e-6))
        if factor < 1.0:
            gradients = {name: g * factor for name, g in gradients.items()}
        self._adamw.learning_rate = learning_rate
        updated = self._adamw.apply_gradients(gradients, parameters)
        self.adapter.assign(updated)
        if self.ema is not None and self.ema_decay is not None:
            self.ema = {
                name: average + (1.0 - self.ema_decay) * (updated[name] - average)
                for name, average in self.ema.items()
            }
        mx.eval(updated, self._adamw.state, self.ema or {})
        return norm

    def state(self) -> dict[str, np.ndarray]:
        """`step`, `exp_avg.*`, `exp_avg_sq.*`, `ema.*`; no moments before a step."""
        step = int(self._adamw.step)
        state = {"step": np.array(float(step), np.float32)}
        if step:
            for theirs, ours in _MOMENTS.items():
                moments = {n: self._adamw.state[n][ours] for n in self.adapter.parameters}
                for name, values in self.adapter.portable(moments).items():
                    state[f"{theirs}.{name}"] = values
        if self.ema is not None:
            for name, values in self.adapter.portable(self.ema).items():
                state[f"ema.{name}"] = values
        return state

    def load(self, state: Mapping[str, np.ndarray], what: str) -> None:
        """Continue from `state()`'s arrays.

        Raises:
            ModelError: an array is missing; `what` names where it should have been.
        """
        if "step" not in state:
            raise ModelError(
                f"{what} does not fit this run: step is missing or of another shape",
                "resume with the config that the run was started with",
            )
        step = int(state["step"])
        moments = {
            ours: self.section(state, theirs, what)
            for theirs, ours in (_MOMENTS.items() if step else ())
        }
        ema = None if self.ema is None else self.section(state, "ema", what)
        self._adamw = self._fresh()
        for ours, values in moments.items():
            for name, array in values.items():
                self._adamw.state[name][ours] = array
        self._adamw.state["step"] = mx.array(step, mx.uint64)
        self.ema = ema
        self.gradients = {}

    def section(self, state: Mapping[str, np.ndarray], prefix: str, what: str) -> Weights:
        """The arrays `prefix.*` of a state, by mlx-lm's names."""
        found = {
            name.removeprefix(f"{prefix}."): values
            for name, values in state.items()
            if name.startswith(f"{prefix}.")
        }
        wanted = self.adapter.portable(self.adapter.parameters)
        for name, values in wanted.items():
            if name not in found or found[name].shape != values.shape:
                raise ModelError(
                    f"{what} does not fit this run: {prefix}.{name} is missing or of another shape",
                    "resume with the config that the run was started with",
                )
        return self.adapter.native({name: found[name] for name in wanted}, what)
