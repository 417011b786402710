"""A loaded model acting as student and as teacher: `backends.interface.Policy` in MLX.

Three things are MLX's own: arrays are computed when asked for, so every pass ends in an evaluation,
or its graph would keep everything it was made from; the gradient is pulled back through the
student's forward pass after the loss has been computed from its value; and lengths are padded to
multiples of 32, because every new shape is compiled again on Metal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from backends.interface import PolicyGradientBatch, Sampling, TokenReport
from backends.mlx import device_memory, loss_head
from backends.mlx.adapter import Adapter, adapter_from_folder, fresh_adapter
from backends.mlx.generation import MlxBatch
from backends.mlx.loading import Loaded, load, save_merged
from backends.mlx.optimizer import AdapterOptimizer
from backends.mlx.pullback import vjp
from backends.mlx.split_model import Head, SplitModel
from backends.mlx.traits import MLX
from backends.shared.description import abbreviated
from backends.shared.loss_batches import EMPTY, has_old, surrogate_of
from backends.shared.micro_batches import PromptAndCompletion, pad_right
from backends.shared.policy_base import PolicyBase
from backends.shared.quantization import BITS
from opsd_cli.config.schema import Config
from opsd_cli.losses.divergence import DivergenceSpec

_LENGTH_MULTIPLE = MLX.memory.length_multiple
"""Sequences are padded to multiples of this many tokens."""


class MlxPolicy(PolicyBase[SplitModel, Adapter, AdapterOptimizer, mx.array]):
    """See `backends.interface.Policy`.

    Args:
        config: the run.
        loaded: model and tokenizer.
        trainable: whether to make an optimiser.

    Raises:
        ModelError: the adapter does not fit the model.
    """

    def __init__(self, config: Config, loaded: Loaded, trainable: bool) -> None:
        super().__init__(config, loaded.tokenizer, loaded.stop_ids)
        self._folder = loaded.folder
        self._split_model = loaded.split_model
        self._base_size = _size(self._split_model.model)
        if config.adapter is not None:
            self._attach(Path(config.adapter).expanduser())
        elif trainable:
            self._adapter = fresh_adapter(self._split_model, config.lora, config.seed)
        if self._adapter is not None and config.adapter is not None:
            self._adapter.mark_start()
        if trainable and self._adapter is not None:
            decay = config.teacher.ema_decay if config.teacher.weights == "ema" else None
            self._optimizer = AdapterOptimizer(self._adapter, config.optimizer, decay)
            if config.train.gradient_checkpointing:
                self._split_model.enable_checkpointing()
        device_memory.set_limits()
        self._memory_meter = device_memory.MemoryMeter()

    @property
    def description(self) -> str:
        """As `Policy.description`."""
        adapter = 0 if self._adapter is None else self._adapter.size
        settings = self._split_model.settings
        bits = settings.get("quantization", {}).get("bits")
        layer = self._split_model.head_layer
        dtype = layer["scales" if "scales" in layer else "weight"].dtype
        kind = f"{bits}-bit" if bits else str(dtype).removeprefix("mlx.core.")
        device = "CPU" if mx.default_device() == mx.cpu else "GPU"
        return (
            f"{_architecture(settings)} on MLX, {abbreviated(self._base_size)} parameters, "
            f"{abbreviated(adapter)} in the adapter, {kind} on the {device}{self._taught_by}"
        )

    @property
    def parameter_count(self) -> int:
        """As `Policy.parameter_count`."""
        return self._base_size + (0 if self._adapter is None else self._adapter.size)

    def save_merged(self, folder: Path, dtype: str | None = None) -> None:
        """As `Policy.save_merged`."""
        self._require_adapter()
        save_merged(self._split_model, folder, self._folder, self.tokenizer.wrapped, dtype)

    def _load_teacher(self, config: Config, quantize: str) -> MlxPolicy:
        return MlxPolicy(config, load(config, BITS[quantize]), trainable=False)

    def _attach(self, folder: Path) -> None:
        self._adapter = adapter_from_folder(self._split_model, folder, self.config.lora.dropout)

    def _new_batch(self, sampling: Sampling) -> MlxBatch:
        return MlxBatch(self._split_model, sampling)

    def _score_pairs(self, pairs: Sequence[PromptAndCompletion], sampling: Sampling) -> np.ndarray:
        hidden_ND, targets_N = self._completion_hidden_states(pairs)
        mx.eval(hidden_ND)
        head = self._split_model.head
        if sampling.filters:
            return loss_head.filtered_log_probs(head, hidden_ND, targets_N, sampling)
        temperature = sampling.temperature or 1.0
        return loss_head.chunked_log_probs(
            head, hidden_ND, targets_N, temperature, gradient=False
        ).columns[0]

    def _teacher_hidden(self, pairs: Sequence[PromptAndCompletion]) -> mx.array:
        hidden_ND, _ = self._completion_hidden_states(pairs)
        mx.eval(hidden_ND)
        return hidden_ND

    def _divergence_pass(
        self,
        pairs: Sequence[PromptAndCompletion],
        teacher_ND: mx.array,
        teacher_head: Head,
        weights_N: np.ndarray,
        spec: DivergenceSpec,
        training: bool,
    ) -> TokenReport:
        def loss(student_ND: mx.array, _: mx.array) -> tuple[TokenReport, mx.array | None]:
            head = self._split_model.head
            found = loss_head.chunked_divergence(
                head, student_ND, teacher_ND, spec, training, teacher_head=teacher_head
            )
            report = TokenReport(*found.columns)
            if found.jacobian_ND is None:
                return report, None
            return report, found.jacobian_ND * mx.array(weights_N)[:, None]

        return self._student_pass(pairs, loss, training)

    def _policy_gradient_pass(
        self,
        pairs: Sequence[PromptAndCompletion],
        batch: PolicyGradientBatch,
        weights_N: np.ndarray,
        training: bool,
    ) -> TokenReport:
        def loss(hidden_ND: mx.array, targets_N: mx.array) -> tuple[TokenReport, mx.array | None]:
            scored = loss_head.chunked_log_probs(
                self._split_model.head, hidden_ND, targets_N, batch.temperature, training
            )
            log_p_N, entropy_N = scored.columns
            # On the host, in float64, which Metal does not have.
            log_p_N = log_p_N.astype(np.float64)
            found = surrogate_of(batch, log_p_N, weights_N, np, lambda array: array)
            clipped_N = found.clipped_N.astype(np.float32) if has_old(batch) else EMPTY
            report = TokenReport(found.value_N.astype(np.float32), entropy_N, EMPTY, clipped_N)
            if scored.jacobian_ND is None:
                return report, None
            slope_N = mx.array(found.slope_N.astype(np.float32))
            return report, scored.jacobian_ND * slope_N[:, None]

        return self._student_pass(pairs, loss, training)

    def _student_pass(
        self,
        pairs: Sequence[PromptAndCompletion],
        loss: Callable[[mx.array, mx.array], tuple[TokenReport, mx.array | None]],
        training: bool,
    ) -> TokenReport:
        """Read the student's sequences, and with `training` add the gradient of the loss.

        One forward pass serves both, so its activations are kept while the loss is computed.

        Args:
            pairs: prompts and completions.
            loss: given hidden states [N, D] and targets [N], the report, and the gradient of the
                weighted loss with respect to the hidden states.
            training: whether to take the gradient, with dropout on.
        """
        if not training:
            hidden_ND, targets_N = self._completion_hidden_states(pairs)
            mx.eval(hidden_ND)
            return loss(hidden_ND, targets_N)[0]
        adapter, optimizer = self._require_adapter(), self._require_optimizer()
        own = adapter.parameters
        traced: list[tuple[mx.array, mx.Dtype]] = []

        def hidden_states(*weights: mx.array) -> mx.array:
            adapter.assign(dict(zip(own, weights, strict=True)))
            hidden_ND, targets_N = self._completion_hidden_states(pairs)
            traced.append((targets_N, hidden_ND.dtype))
            return hidden_ND.astype(mx.float32)

        count = sum(len(completion) for _, completion in pairs)
        adapter.set_dropout(True)
        try:
            hidden_ND, pull_back = vjp(
                hidden_states, list(own.values()), (count, self._split_model.width)
            )
            targets_N, dtype = traced[0]
            report, gradient_ND = loss(hidden_ND.astype(dtype), targets_N)
            assert gradient_ND is not None
            optimizer.add(dict(zip(own, pull_back(gradient_ND), strict=True)))
        finally:
            adapter.set_dropout(False)
            adapter.assign(own)
        return report

    def _completion_hidden_states(
        self, pairs: Sequence[PromptAndCompletion]
    ) -> tuple[mx.array, mx.array]:
        """Hidden states [N, D] at the positions that predict the completions' tokens [N], and
        those tokens; not yet computed."""
        padded = pad_right(pairs, self.context_limit, _LENGTH_MULTIPLE)
        hidden_BLD = self._split_model.hidden(mx.array(padded.ids_BL.astype(np.int32)))
        flat_ND = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])
        predictors_N, targets_N = (
            mx.array(array.astype(np.int32)) for array in (padded.predictors_N, padded.targets_N)
        )
        return flat_ND[predictors_N], targets_N


def load_policy(config: Config, trainable: bool) -> MlxPolicy:
    """Model, tokenizer and adapter of a config, and the model of its teacher where it trains."""
    policy = MlxPolicy(config, load(config), trainable)
    if trainable and config.teacher.model is not None:
        policy.load_teacher_model()
    return policy


def _size(model: Any) -> int:
    """Parameters of a model; those of a quantised layer counted as they were before."""
    total = 0
    for _, module in model.named_modules():
        own = {k: v for k, v in module.items() if isinstance(v, mx.array)}
        if "scales" in own:
            total += own["scales"].size * module.group_size
        else:
            total += sum(v.size for _, v in tree_flatten(own))
    return total


def _architecture(settings: dict[str, Any]) -> str:
    named = settings.get("architectures") or [settings.get("model_type")]
    return str(named[0])
