"""A loaded model acting as student and as teacher: `backends.interface.Policy` in PyTorch.

Student and teacher read their sequences separately, because their prompts differ in length, and
meet only at the completion's positions: two [N, D] blocks of hidden states, from which `loss_head`
makes the loss in chunks. The teacher goes first, so that its weights are out of the way again
before anything is recorded for the backward pass.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from backends.interface import (
    PLAIN,
    BatchReport,
    DivergenceBatch,
    DivergenceItem,
    LossBatch,
    PolicyGradientBatch,
    PolicyGradientItem,
    Rollout,
    RolloutRequest,
    Sampling,
    TeacherWeights,
    TokenReport,
)
from backends.pytorch import device_memory
from backends.pytorch.adapter import (
    adapter_from_folder,
    fresh_adapter,
)
from backends.pytorch.batching import Padded, pad_right
from backends.pytorch.generation import generate
from backends.pytorch.loading import Loaded, load, stored_dtype
from backends.pytorch.loss_head import chunked_divergence, chunked_log_probs, filtered_log_probs
from backends.pytorch.optimizer import AdapterOptimizer, part
from backends.pytorch.split_model import SplitModel
from backends.shared.adapter_files import CONFIG_FILE, permit
from backends.shared.micro_batches import Pair
from backends.shared.model_files import quiet, write_both_spellings
from backends.shared.policy_base import PolicyBase, counted, weights_in_loss
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, TrainingError
from opsd_cli.hub import first_line

OPTIMIZER_FILE = "optimizer.safetensors"

_ROLLOUT_HINT = "lower rollouts.batch_size or sampling.max_new_tokens"
_TRAIN_HINT = "lower train.micro_batch_tokens, or set train.gradient_checkpointing to true"


class TorchPolicy(PolicyBase):
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
        with device_memory.explained(
            ModelError, f"{config.model} does not fit in this device's memory", "use a smaller one"
        ):
            self._model.to(device)
        if self._adapter is not None and config.adapter is not None:
            self._adapter.start = self._adapter.copy()
        dtype = base_dtype(config, device)
        self._network = SplitModel(
            self._model, loaded.vocabulary, None if dtype == torch.float32 else dtype
        )
        self._network.require_same_logits(config.model)
        if trainable and self._adapter is not None:
            decay = config.teacher.ema_decay if config.teacher.weights == "ema" else None
            self._optimizer = AdapterOptimizer(self._adapter.parameters, config.optimizer, decay)
            if config.train.gradient_checkpointing:
                self._network.enable_checkpointing()
        self._meter = device_memory.MemoryMeter(device)

    @property
    def description(self) -> str:
        network = self._network
        total = self.parameter_count
        adapter = 0 if self._adapter is None else self._adapter.size
        dtype = str(network.weight_VD.dtype).removeprefix("torch.")
        return (
            f"{type(self._model).__name__}, {counted(total - adapter)} parameters, "
            f"{counted(adapter)} in the adapter, {dtype} on {network.device}"
        )

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self._model.parameters())

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """As `Policy.generate`."""
        with device_memory.explained(
            TrainingError, "memory ran out while drawing rollouts", _ROLLOUT_HINT
        ):
            drawn = generate(
                self._network,
                requests,
                sampling,
                self._stop_ids,
                self.config.rollouts.batch_size,
            )
            if role == "student":
                yield from drawn
            else:
                yield from self._drawn_by_teacher(drawn, teacher)

    def score(
        self,
        sequences: Sequence[Pair],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        """As `Policy.score`; greedy sampling scores as the plain distribution does."""
        weights: TeacherWeights = teacher if role == "teacher" else "live"
        scores = [np.zeros(0, np.float32) for _ in sequences]
        with torch.no_grad(), self._memory_explained():
            for rows in self._micro_batches([[pair] for pair in sequences]):
                batch, hidden_ND = self._read([sequences[row] for row in rows], weights)
                given = {"targets_N": batch.targets_N, **self._network.head}
                if sampling.filters:
                    found_N = filtered_log_probs(hidden_ND, sampling=sampling, **given)
                else:
                    temperature = sampling.temperature or 1.0
                    found_N = chunked_log_probs(
                        hidden_ND, temperature=temperature, **given
                    ).log_prob_N
                for row, part_N in zip(rows, _split(found_N, batch.counts), strict=True):
                    scores[row] = part_N
        return scores

    def save_merged(self, folder: Path) -> None:
        merged: Any = self._require_adapter().model.merge_and_unload()
        with quiet(hide_progress=True):
            merged.to(stored_dtype(self.config) or merged.dtype).save_pretrained(folder)
            write_both_spellings(folder)
            self.tokenizer.wrapped.save_pretrained(folder)
        permit(folder, "config.json")

    def save(self, folder: Path) -> None:
        state = self._require_optimizer().state()
        for name, tensor in (self._require_adapter().start or {}).items():
            state[f"start.{name}"] = tensor.cpu()
        state["random.cpu"] = torch.get_rng_state()
        if self._network.device.type == "cuda":
            state["random.cuda"] = torch.cuda.get_rng_state(self._network.device)
        self.save_adapter(folder)
        save_file(state, folder / OPTIMIZER_FILE, metadata={"format": "pt"})
        permit(folder, CONFIG_FILE)

    def restore(self, folder: Path) -> None:
        """As `Policy.restore`.

        Raises:
            ModelError: the folder is not what `save` wrote for this model and config.
        """
        optimizer, adapter = self._require_optimizer(), self._require_adapter()
        path = folder / OPTIMIZER_FILE
        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} cannot be read: {first_line(error)}",
                "resume from another checkpoint",
            ) from error
        adapter.read(folder)
        optimizer.load(state, str(path))
        if adapter.start is not None:
            for name, tensor in adapter.start.items():
                tensor.copy_(part(state, f"start.{name}", tensor, str(path)))
        # Another backend's checkpoint has no random state of torch's.
        if "random.cpu" in state:
            torch.set_rng_state(state["random.cpu"])
        if "random.cuda" in state and self._network.device.type == "cuda":
            torch.cuda.set_rng_state(state["random.cuda"], self._network.device)

    def load_adapter(self, folder: Path) -> None:
        """As `Policy.load_adapter`; a policy loaded without an adapter takes this one whole."""
        super().load_adapter(folder)
        self._model.to(self._network.device).eval()

    def _has_triton(self) -> bool:
        return self._device.type == "cuda" and importlib.util.find_spec("triton") is not None

    def _attach(self, folder: Path) -> None:
        lora = self.config.lora
        self._adapter = adapter_from_folder(self._model, folder, lora.dropout, self.config.seed)

    def _losses(self, batch: LossBatch, training: bool) -> BatchReport:
        with self._memory_explained():
            return super()._losses(batch, training)

    def _learn(self, batch: LossBatch, rows: list[int], training: bool) -> list[TokenReport]:
        if isinstance(batch, DivergenceBatch):
            loss, reports = self._divergence(batch, rows, training)
        else:
            loss, reports = self._policy_gradient(batch, rows, training)
        if training:
            loss.backward()
        return reports

    def _divergence(
        self, batch: DivergenceBatch, rows: list[int], training: bool
    ) -> tuple[Tensor, list[TokenReport]]:
        items = [batch.items[row] for row in rows]

        def read_teacher() -> Tensor:
            with torch.no_grad():
                return self._read(
                    [(item.teacher_prompt, item.completion) for item in items], batch.teacher
                )[1]

        teacher_ND = self._teacher_kept.get(rows, read_teacher)
        student, student_ND = self._read(
            [(item.student_prompt, item.completion) for item in items], "live", training
        )
        weights_N = self._weights(items)
        found = chunked_divergence(
            student_ND,
            teacher_ND,
            weights_N=weights_N,
            spec=batch.spec,
            kernel=self.config.train.loss_kernel,
            **self._network.head,
        )
        columns = (
            _split(tensor, student.counts)
            for tensor in (
                found.value_N,
                found.student_entropy_N,
                found.teacher_entropy_N,
                found.clipped_N,
            )
        )
        return found.loss, [TokenReport(*column) for column in zip(*columns, strict=True)]

    def _policy_gradient(
        self, batch: PolicyGradientBatch, rows: list[int], training: bool
    ) -> tuple[Tensor, list[TokenReport]]:
        items = [batch.items[row] for row in rows]
        read, hidden_ND = self._read(
            [(item.prompt, item.completion) for item in items], "live", training
        )
        found = chunked_log_probs(
            hidden_ND, targets_N=read.targets_N, temperature=batch.temperature,
            **self._network.head,
        )  # fmt: skip
        advantages_N = self._per_item(items, "advantages")
        log_p_N = found.log_prob_N
        clipped_N = None
        if items[0].old_log_probs:
            ratio_N = (log_p_N - self._per_item(items, "old_log_probs")).exp()
            capped_N = ratio_N.clamp(1 - batch.clip_low, 1 + batch.clip_high)
            value_N = -torch.minimum(ratio_N * advantages_N, capped_N * advantages_N)
            clipped_N = (capped_N * advantages_N < ratio_N * advantages_N).float()
        else:
            value_N = -advantages_N * log_p_N
        if batch.kl:
            gap_N = self._per_item(items, "initial_log_probs") - log_p_N
            value_N = value_N + batch.kl * (gap_N.exp() - gap_N - 1)
        weights_N = self._weights(items)
        empty = np.zeros(0, np.float32)
        columns = (
            [empty] * len(items) if tensor is None else _split(tensor, read.counts)
            for tensor in (value_N, found.entropy_N, None, clipped_N)
        )
        reports = [TokenReport(*column) for column in zip(*columns, strict=True)]
        return (weights_N * value_N).sum(), reports

    def _read(
        self, pairs: Sequence[Pair], weights: TeacherWeights, training: bool = False
    ) -> tuple[Padded, Tensor]:
        """Hidden states [N, D] at the positions that predict the completions' tokens."""
        batch = pad_right(pairs, self._network.device)
        limit = self.context_limit
        if limit is not None and batch.ids_BL.shape[1] > limit:
            raise ModelError(
                f"a sequence of {batch.ids_BL.shape[1]} tokens is longer than the model's "
                f"context of {limit}",
                "set prompts.teacher.max_tokens, or lower sampling.max_new_tokens",
            )
        with self._acting_with(weights):
            hidden_BLD = self._network.hidden(batch.ids_BL, training=training)
        return batch, hidden_BLD.flatten(0, 1)[batch.predictors_N]

    def _weights(self, items: Sequence[DivergenceItem | PolicyGradientItem]) -> Tensor:
        """What each token is multiplied by in the loss, flattened."""
        weights_N = weights_in_loss(items).astype(np.float32)
        return torch.from_numpy(weights_N).to(self._network.device)

    def _per_item(self, items: Sequence[PolicyGradientItem], name: str) -> Tensor:
        """One number a token of every item, flattened."""
        numbers = [number for item in items for number in getattr(item, name)]
        return torch.tensor(numbers, dtype=torch.float32, device=self._network.device)

    def _memory_explained(self) -> contextlib.AbstractContextManager[None]:
        return device_memory.explained(
            TrainingError, "memory ran out in a training or scoring pass", _TRAIN_HINT
        )


def load_policy(config: Config, device: torch.device, trainable: bool) -> TorchPolicy:
    """Model, tokenizer and adapter of a config; frozen weights in `config.train.dtype`."""
    return TorchPolicy(config, load(config, base_dtype(config, device)), device, trainable)


def base_dtype(config: Config, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it, and float32 elsewhere."""
    if config.train.dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.train.dtype == "bfloat16" else torch.float32


def _split(values_N: Tensor, counts: Sequence[int]) -> list[np.ndarray]:
    """Float32 arrays on the CPU, one a sequence."""
    flat_N = values_N.detach().float().cpu().numpy()
    return np.split(flat_N, np.cumsum(counts)[:-1])
