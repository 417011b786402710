"""One AdamW step on the adapter, the moving average of its weights, and what a resume needs.

Clipping is by the global norm. A parameter that no gradient reached counts as having gradient
zero, so all of them are always at the same step; one number then says where a run stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from opsd_cli.config.sections import Optimizer
from opsd_cli.errors import ModelError, TrainingError

_MOMENTS = ("exp_avg", "exp_avg_sq")


class AdapterOptimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over named parameters.

    Args:
        parameters: what is trained, by name.
        config: betas, weight decay and the norm to clip to.
        ema_decay: share of the moving average kept at each step; None keeps no average.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], config: Optimizer, ema_decay: float | None
    ) -> None:
        self.parameters = dict(parameters)
        self.max_norm = config.max_grad_norm
        self.ema_decay = ema_decay
        #: The moving average, starting at the weights of the start; None where none is kept.
        self.ema: dict[str, Tensor] | None = None
        if ema_decay is not None:
            self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._adamw = torch.optim.AdamW(
            self.parameters.values(), betas=config.betas, weight_decay=config.weight_decay
        )

    def step(self, learning_rate: float) -> float:
        """Clip, step, update the average, drop the gradients; returns the norm before clipping.

        Raises:
            TrainingError: that norm is not finite; weights, moments and average stay as they were.
        """
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values()])
        norm = float(total)
        if not math.isfinite(norm):
            self.drop_gradients()
            raise TrainingError(
                f"the gradient is not finite (norm {norm}); the step was not taken",
                "lower optimizer.learning_rate, or resume from the last checkpoint",
            )
        torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.max_norm, total)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.drop_gradients()
        if self.ema is not None and self.ema_decay is not None:
            with torch.no_grad():
                for name, average in self.ema.items():
                    average.lerp_(self.parameters[name], 1.0 - self.ema_decay)
        return norm

    def drop_gradients(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """`step`, `exp_avg.*`, `exp_avg_sq.*`, `ema.*` on the CPU; no moments before a step."""
        state: dict[str, Tensor] = {"step": torch.tensor(0.0)}
        for name, parameter in self.parameters.items():
            moments = self._adamw.state.get(parameter)
            if moments:
                state["step"] = moments["step"].cpu().clone()
                for key in _MOMENTS:
                    state[f"{key}.{name}"] = moments[key].cpu()
        for name, average in (self.ema or {}).items():
            state[f"ema.{name}"] = average.cpu()
        return state

    def load(self, state: Mapping[str, Tensor], what: str) -> None:
        """Continue from `state()`'s tensors.

        Raises:
            ModelError: a tensor is missing; `what` names where it should have been.
        """
        started = float(part(state, "step", torch.tensor(0.0), what)) > 0
        moments = {
            name: {key: part(state, f"{key}.{name}", p, what).to(p, copy=True) for key in _MOMENTS}
            for name, p in (self.parameters.items() if started else ())
        }
        if self.ema is not None:
            for name, average in self.ema.items():
                average.copy_(part(state, f"ema.{name}", average, what))
        self._adamw.state.clear()
        for name, pair in moments.items():
            self._adamw.state[self.parameters[name]] = {"step": state["step"].clone(), **pair}
        self.drop_gradients()


def part(state: Mapping[str, Tensor], name: str, like: Tensor, what: str) -> Tensor:
    """`state[name]`; `ModelError` where it is missing or of another shape than `like`."""
    if name not in state or state[name].shape != like.shape:
        raise ModelError(
            f"{what} does not fit this run: {name} is missing or of another shape",
            "resume with the config that the run was started with",
        )
    return state[name]
