"""AdamW on the adapter: torch's own, which clips by the global norm in one call."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from backends.pytorch.adapter import Adapter
from backends.shared.optimizer_base import MOMENTS, OptimizerBase
from opsd_cli.config.sections import Optimizer


class AdapterOptimizer(OptimizerBase[Tensor]):
    """See `OptimizerBase`."""

    def __init__(self, adapter: Adapter, config: Optimizer, ema_decay: float | None) -> None:
        super().__init__(adapter, config, ema_decay)
        self.parameters = adapter.parameters
        self._adamw = torch.optim.AdamW(
            self.parameters.values(), betas=config.betas, weight_decay=config.weight_decay
        )

    def step(self, learning_rate: float) -> float:
        """As `OptimizerBase.step`."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values()])
        norm = float(total)
        self.require_finite(norm)
        torch.nn.utils.clip_grads_with_norm_(
            self.parameters.values(), self.config.max_grad_norm, total
        )
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.drop_gradients()
        self.update_ema()
        return norm

    @torch.no_grad()
    def _interpolated(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        return start.lerp_(end, share)

    def drop_gradients(self) -> None:
        """As `OptimizerBase.drop_gradients`."""
        self._adamw.zero_grad(set_to_none=True)

    @property
    def has_gradient(self) -> bool:
        """As `OptimizerBase.has_gradient`."""
        return any(parameter.grad is not None for parameter in self.parameters.values())

    def take_gradient(self) -> Tensor:
        """As `OptimizerBase.take_gradient`."""
        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten().float()
            for _, p in sorted(self.parameters.items())
        ]
        self.drop_gradients()
        return torch.cat(parts)

    def add_gradient(self, gradient: Tensor) -> None:
        """As `OptimizerBase.add_gradient`."""
        ordered = [p for _, p in sorted(self.parameters.items())]
        for p, part in zip(ordered, gradient.split([p.numel() for p in ordered]), strict=True):
            own = part.view_as(p).to(p.dtype)
            p.grad = own.clone() if p.grad is None else p.grad + own

    @property
    def steps(self) -> int:
        """As `OptimizerBase.steps`."""
        return max((int(moments["step"]) for moments in self._adamw.state.values()), default=0)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """As `OptimizerBase.moments`."""
        return {
            moment: {name: self._adamw.state[p][moment] for name, p in self.parameters.items()}
            for moment in MOMENTS
        }

    def continue_from(self, steps: int, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """As `OptimizerBase.continue_from`."""
        self._adamw.state.clear()
        for name, parameter in self.parameters.items() if steps else ():
            self._adamw.state[parameter] = {
                "step": torch.tensor(float(steps)),
                **{moment: arrays[name] for moment, arrays in moments.items()},
            }
