"""A loaded model acting as student and as teacher: `backends.interface.Policy` in PyTorch.

Student and teacher read their sequences separately, because their prompts differ in length, and
are compared only at the completion's positions: two [N, D] blocks of hidden states, from which
`loss_head` makes the loss in chunks.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from backends.interface import PolicyGradientBatch, Sampling, TokenReport
from backends.pytorch import device_memory
from backends.pytorch.adapter import Adapter, adapter_from_folder, fresh_adapter
from backends.pytorch.generation import TorchBatch
from backends.pytorch.head import Head
from backends.pytorch.loading import Loaded, load
from backends.pytorch.loss_head import chunked_divergence, chunked_log_probs, filtered_log_probs
from backends.pytorch.optimizer import AdapterOptimizer
from backends.pytorch.quantization import quantise, quantised_layers
from backends.pytorch.sharding import is_sharded, shard_base
from backends.pytorch.split_model import SplitModel
from backends.pytorch.traits import CPU, CUDA
from backends.shared.adapter_files import permit
from backends.shared.description import abbreviated
from backends.shared.loss_batches import EMPTY, has_old, surrogate_of
from backends.shared.micro_batches import PromptAndCompletion, pad_right
from backends.shared.model_files import model_folder, quiet, write_both_spellings
from backends.shared.policy_base import PolicyBase
from backends.shared.quantization import BITS, require_quantizer
from backends.shared.tokenizer_files import save_tokenizer
from backends.shared.weight_files import stored_dtype
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, TrainingError, UsageError
from opsd_cli.losses.divergence import DivergenceSpec

_OUT_OF_MEMORY = {
    "generate": (
        "memory ran out while drawing rollouts",
        "lower rollouts.batch_size or sampling.max_new_tokens",
    ),
    "learn": (
        "memory ran out in a training or scoring pass",
        "lower train.micro_batch_tokens, or set train.gradient_checkpointing to true",
    ),
}


class TorchPolicy(PolicyBase[SplitModel, Adapter, AdapterOptimizer, Tensor]):
    """See `backends.interface.Policy`.

    Args:
        config: the run.
        loaded: model and tokenizer; the model is still on the CPU and gets its adapter there, so
            that a fresh one is the same whatever the device.
        device: where to work.
        trainable: whether to make an optimiser.

    Raises:
        ModelError: the adapter does not fit the model, or the model does not fit the device.
    """

    def __init__(
        self, config: Config, loaded: Loaded, device: torch.device, trainable: bool
    ) -> None:
        self._device = device
        super().__init__(config, loaded.tokenizer, loaded.stop_ids)
        self._model = loaded.model
        if config.adapter is not None:
            self._attach(Path(config.adapter).expanduser())
        elif trainable:
            self._adapter = fresh_adapter(self._model, config.lora, config.seed)
        with _reporting_full_device(config.model):
            self._sharded = is_sharded(config)
            if self._sharded:
                shard_base(self._model, device, config.model)
            else:
                self._model.to(device)
        if self._adapter is not None and config.adapter is not None:
            self._adapter.mark_start()
        dtype = base_dtype(config, device)
        self._split_model = SplitModel(
            self._model, loaded.vocabulary, None if dtype == torch.float32 else dtype
        )
        self._split_model.require_same_logits(config.model)
        if trainable and self._adapter is not None:
            decay = config.teacher.ema_decay if config.teacher.weights == "ema" else None
            self._optimizer = AdapterOptimizer(self._adapter, config.optimizer, decay)
            if config.train.gradient_checkpointing:
                self._split_model.enable_checkpointing()
        self._memory_meter = device_memory.MemoryMeter(device)

    @property
    def description(self) -> str:
        """As `Policy.description`."""
        total = self.parameter_count
        adapter = 0 if self._adapter is None else self._adapter.size
        dtype = str(self._split_model.head.weight_VD.dtype).removeprefix("torch.")
        layers = quantised_layers(self._model)
        if layers:
            dtype = f"{layers[0].bits}-bit and {dtype}"
        return (
            f"{type(self._model).__name__}, {abbreviated(total - adapter)} parameters, "
            f"{abbreviated(adapter)} in the adapter, {dtype} on {self._split_model.device}"
            f"{', the base sharded' if self._sharded else ''}{self._taught_by}"
        )

    @property
    def parameter_count(self) -> int:
        """As `Policy.parameter_count`."""
        quantised = sum(layer.parameter_count for layer in quantised_layers(self._model))
        return quantised + sum(p.numel() for p in self._model.parameters())

    def save_merged(self, folder: Path, dtype: str | None = None) -> None:
        """As `Policy.save_merged`.

        Raises:
            UsageError: the base is sharded.
        """
        if self._sharded:
            raise UsageError(
                "a base that is sharded cannot be merged with its adapter",
                "export on one device, from a checkpoint: opsd export --adapter RUN",
            )
        merged: Any = self._require_adapter().model.merge_and_unload()
        base = model_folder(self.config)
        dtype = dtype or stored_dtype(base)
        with quiet(hide_progress=True):
            merged.to(getattr(torch, dtype)).save_pretrained(folder)
            write_both_spellings(folder)
            save_tokenizer(self.tokenizer.wrapped, base, folder)
        permit(folder, "config.json")

    def load_adapter(self, folder: Path) -> None:
        """As `PolicyBase.load_adapter`.

        Raises:
            UsageError: the base is sharded, and has no adapter yet: one is attached before.
        """
        if self._sharded and self._adapter is None:
            raise UsageError(
                "an adapter cannot be attached to a base that is sharded already",
                "load the model with the adapter",
            )
        super().load_adapter(folder)
        if self._sharded:
            return
        self._model.to(self._split_model.device).eval()

    def _loss_kernels(self) -> frozenset[str]:
        on_gpu = self._device.type == "cuda"
        has_triton = on_gpu and importlib.util.find_spec("triton") is not None
        return super()._loss_kernels() | ({"triton"} if has_triton else frozenset())

    def _load_teacher(self, config: Config, quantize: str) -> TorchPolicy:
        traits = CUDA if self._device.type == "cuda" else CPU
        require_quantizer(self._device.type, traits, quantize)
        loaded = load(config, base_dtype(config, self._device))
        bits = BITS[quantize]
        if bits is not None:
            with _reporting_full_device(config.model):
                quantise(loaded.model, bits, self._device, config.model)
        return TorchPolicy(config, loaded, self._device, trainable=False)

    def _attach(self, folder: Path) -> None:
        self._adapter = adapter_from_folder(self._model, folder, self.config.lora.dropout)

    def _reporting_out_of_memory(
        self, phase: Literal["generate", "learn"]
    ) -> contextlib.AbstractContextManager[None]:
        return device_memory.reporting_out_of_memory(TrainingError, *_OUT_OF_MEMORY[phase])

    def _new_batch(self, sampling: Sampling) -> TorchBatch:
        return TorchBatch(self._split_model, sampling)

    @torch.no_grad()
    def _score_pairs(self, pairs: Sequence[PromptAndCompletion], sampling: Sampling) -> np.ndarray:
        hidden_ND, targets_N = self._completion_hidden_states(pairs)
        head = self._split_model.head
        if sampling.filters:
            return _numpy(filtered_log_probs(hidden_ND, head, targets_N, sampling))
        temperature = sampling.temperature or 1.0
        return _numpy(chunked_log_probs(hidden_ND, head, targets_N, temperature).log_prob_N)

    @torch.no_grad()
    def _teacher_hidden(self, pairs: Sequence[PromptAndCompletion]) -> Tensor:
        return self._completion_hidden_states(pairs)[0]

    def _divergence_pass(
        self,
        pairs: Sequence[PromptAndCompletion],
        teacher_ND: Tensor,
        teacher_head: Head,
        weights_N: np.ndarray,
        spec: DivergenceSpec,
        training: bool,
    ) -> TokenReport:
        with torch.set_grad_enabled(training):
            student_ND, _ = self._completion_hidden_states(pairs, training)
            found = chunked_divergence(
                student_ND,
                teacher_ND,
                self._split_model.head,
                self._tensor(weights_N),
                spec,
                kernel=self.config.train.loss_kernel,
                teacher_head=teacher_head,
            )
        if training:
            found.loss.backward()
        return TokenReport(
            _numpy(found.value_N),
            _numpy(found.student_entropy_N),
            _numpy(found.teacher_entropy_N),
            _numpy(found.clipped_N),
        )

    def _policy_gradient_pass(
        self,
        pairs: Sequence[PromptAndCompletion],
        batch: PolicyGradientBatch,
        weights_N: np.ndarray,
        training: bool,
    ) -> TokenReport:
        with torch.set_grad_enabled(training):
            hidden_ND, targets_N = self._completion_hidden_states(pairs, training)
            head = self._split_model.head
            scored = chunked_log_probs(hidden_ND, head, targets_N, batch.temperature)
            found = surrogate_of(batch, scored.log_prob_N, weights_N, torch, self._tensor)
            if training:
                # Linear in the log-probabilities, with the surrogate's slope.
                (found.slope_N * scored.log_prob_N).sum().backward()
        clipped_N = _numpy(found.clipped_N) if has_old(batch) else EMPTY
        return TokenReport(_numpy(found.value_N), _numpy(scored.entropy_N), EMPTY, clipped_N)

    def _completion_hidden_states(
        self, pairs: Sequence[PromptAndCompletion], training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [N, D] at the positions that predict the completions' tokens [N], and
        those tokens."""
        padded = pad_right(pairs, self.context_limit)
        ids_BL, predictors_N, targets_N = (
            torch.from_numpy(array).to(self._split_model.device)
            for array in (padded.ids_BL, padded.predictors_N, padded.targets_N)
        )
        hidden_BLD = self._split_model.hidden(ids_BL, training=training)
        return hidden_BLD.flatten(0, 1)[predictors_N], targets_N

    def _tensor(self, array: np.ndarray) -> Tensor:
        """Float32 on the device."""
        return torch.tensor(array, dtype=torch.float32, device=self._split_model.device)


def load_policy(config: Config, device: torch.device, trainable: bool) -> TorchPolicy:
    """Model, tokenizer and adapter of a config; frozen weights in `config.train.dtype`.

    With `trainable`, the model of `teacher.model` is loaded too, where there is one; else when it
    is first needed.
    """
    policy = TorchPolicy(config, load(config, base_dtype(config, device)), device, trainable)
    if trainable and config.teacher.model is not None:
        policy.load_teacher_model()
    return policy


def _reporting_full_device(name: str) -> contextlib.AbstractContextManager[None]:
    return device_memory.reporting_out_of_memory(
        ModelError, f"{name} does not fit in this device's memory", "use a smaller one"
    )


def base_dtype(config: Config, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it, and float32 elsewhere."""
    if config.train.dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32


def _numpy(values_N: Tensor) -> np.ndarray:
    """Float32 [N] on the CPU."""
    return values_N.detach().float().cpu().numpy()
