"""A loaded model acting as student and as teacher: `backends.interface.Policy` in MLX.

The same shape as the PyTorch policy. Three things are MLX's own: arrays are computed when asked
for, so every pass ends in an evaluation, or its graph would keep everything it was made from; the
student's sequences are read once for the loss's numbers and once for the gradient; and lengths are
padded to multiples of 32, because every new shape is compiled anew on Metal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from backends.interface import (
    PLAIN,
    DivergenceBatch,
    LossBatch,
    PolicyGradientBatch,
    PolicyGradientItem,
    Rollout,
    RolloutRequest,
    Sampling,
    TeacherWeights,
    TokenReport,
)
from backends.mlx import loss_head, memory
from backends.mlx.adapter import Weights, adapter_from_folder, fresh_adapter
from backends.mlx.generation import generate
from backends.mlx.loading import Loaded, load, save_merged
from backends.mlx.optimizer import AdapterOptimizer
from backends.mlx.traits import MLX
from backends.shared.adapter_files import CONFIG_FILE, permit
from backends.shared.micro_batches import Pair, require_prompt
from backends.shared.policy_base import PolicyBase, counted, weights_in_loss
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError
from opsd_cli.hub import first_line

OPTIMIZER_FILE = "optimizer.safetensors"
_LENGTHS = MLX.memory.length_multiple
"""Sequences are padded to multiples of this."""


class MlxPolicy(PolicyBase):
    """See `backends.interface.Policy`.

    Args:
        config: the run.
        loaded: network and tokenizer.
        trainable: whether to make an optimiser.

    Raises:
        ModelError: the adapter does not fit the model.
    """

    def __init__(self, config: Config, loaded: Loaded, trainable: bool) -> None:
        super().__init__(config, loaded.tokenizer, loaded.stop_ids)
        self._folder = loaded.folder
        self._network = loaded.network
        self._base_size = _size(self._network.model)
        if config.adapter is not None:
            self._attach(Path(config.adapter).expanduser())
        elif trainable:
            self._adapter = fresh_adapter(self._network, config.lora, config.seed)
        if self._adapter is not None and config.adapter is not None:
            self._adapter.start = self._adapter.parameters
        if trainable and self._adapter is not None:
            decay = config.teacher.ema_decay if config.teacher.weights == "ema" else None
            self._optimizer = AdapterOptimizer(self._adapter, config.optimizer, decay)
            if config.train.gradient_checkpointing:
                self._network.enable_checkpointing()
        memory.set_limits()
        self._meter = memory.MemoryMeter()

    @property
    def description(self) -> str:
        adapter = 0 if self._adapter is None else self._adapter.size
        settings = self._network.settings
        bits = settings.get("quantization", {}).get("bits")
        kind = f"{bits}-bit" if bits else str(self._dtype).removeprefix("mlx.core.")
        device = "CPU" if mx.default_device() == mx.cpu else "GPU"
        return (
            f"{_architecture(settings)} on MLX, {counted(self._base_size)} parameters, "
            f"{counted(adapter)} in the adapter, {kind} on the {device}"
        )

    @property
    def _dtype(self) -> Any:
        return self._network.head_layer["scales" if "scales" in self._network.head_layer
                                        else "weight"].dtype  # fmt: skip

    @property
    def parameter_count(self) -> int:
        return self._base_size + (0 if self._adapter is None else self._adapter.size)

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """As `Policy.generate`."""
        drawn = generate(
            self._network, requests, sampling, self._stop_ids, self.config.rollouts.batch_size
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
        for rows in self._micro_batches([[pair] for pair in sequences]):
            pairs = [sequences[row] for row in rows]
            with self._acting_with(weights):
                hidden_ND = self._read(pairs)
                mx.eval(hidden_ND)
            targets_N = mx.array([token for _, completion in pairs for token in completion])
            head = self._network.head
            if sampling.filters:
                found_N = loss_head.filtered_log_probs(head, hidden_ND, targets_N, sampling)
            else:
                temperature = sampling.temperature or 1.0
                found_N = loss_head.chunked_log_probs(
                    head, hidden_ND, targets_N, temperature, gradient=False
                ).columns[0]
            counts = [len(completion) for _, completion in pairs]
            for row, part_N in zip(rows, _split(found_N, counts), strict=True):
                scores[row] = part_N
        return scores

    def save_merged(self, folder: Path) -> None:
        self._require_adapter()
        save_merged(self._network, folder, self._folder, self.tokenizer.wrapped)

    def save(self, folder: Path) -> None:
        adapter = self._require_adapter()
        state = self._require_optimizer().state()
        if adapter.start is not None:
            for name, values in adapter.portable(adapter.start).items():
                state[f"start.{name}"] = values
        state["random.mlx"] = np.array(_random_state()[0])
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
            # Another backend's random state is of types of its own, and of no use here.
            state = {k: v for k, v in load_file(path).items() if k != "random.cpu"}
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} cannot be read: {first_line(error)}",
                "resume from another checkpoint",
            ) from error
        adapter.read(folder)
        optimizer.load(state, str(path))
        if adapter.start is not None:
            adapter.start = optimizer.section(state, "start", str(path))
        if "random.mlx" in state:
            _random_state()[0][:] = mx.array(state["random.mlx"])

    def _attach(self, folder: Path) -> None:
        self._adapter = adapter_from_folder(self._network, folder, self.config.lora.dropout)

    # -- losses --------------------------------------------------------------------------------

    def _learn(self, batch: LossBatch, rows: list[int], training: bool) -> list[TokenReport]:
        if isinstance(batch, DivergenceBatch):
            return self._divergence(batch, rows, training)
        return self._policy_gradient(batch, rows, training)

    def _divergence(
        self, batch: DivergenceBatch, rows: list[int], training: bool
    ) -> list[TokenReport]:
        items = [batch.items[row] for row in rows]
        counts = [len(item.completion) for item in items]

        def read_teacher() -> mx.array:
            with self._acting_with(batch.teacher):
                hidden_ND = self._read([(item.teacher_prompt, item.completion) for item in items])
                mx.eval(hidden_ND)
            return hidden_ND

        teacher_ND = self._teacher_kept.get(rows, read_teacher)
        weights_N = weights_in_loss(items).astype(np.float32)
        columns: list[np.ndarray] = []

        def slopes(student_ND: mx.array) -> mx.array | None:
            found = loss_head.chunked_divergence(
                self._network.head, student_ND, teacher_ND, batch.spec, training
            )
            columns.extend(found.columns)
            if found.jacobian_ND is None:
                return None
            return found.jacobian_ND * mx.array(weights_N)[:, None]

        pairs = [(item.student_prompt, item.completion) for item in items]
        self._descend(pairs, slopes, training)
        value, student_entropy, teacher_entropy, clipped = (
            _split(column, counts) for column in columns
        )
        return [
            TokenReport(*parts)
            for parts in zip(value, student_entropy, teacher_entropy, clipped, strict=True)
        ]

    def _policy_gradient(
        self, batch: PolicyGradientBatch, rows: list[int], training: bool
    ) -> list[TokenReport]:
        items = [batch.items[row] for row in rows]
        counts = [len(item.completion) for item in items]
        pairs = [(item.prompt, item.completion) for item in items]
        targets_N = mx.array([token for item in items for token in item.completion])
        weights_N = weights_in_loss(items).astype(np.float32)
        columns: list[np.ndarray] = []

        def slopes(hidden_ND: mx.array) -> mx.array | None:
            found = loss_head.chunked_log_probs(
                self._network.head, hidden_ND, targets_N, batch.temperature, training
            )
            log_p_N, entropy_N = found.columns
            value_N, slope_N, clipped_N = surrogate(batch, items, log_p_N)
            columns.extend([value_N, entropy_N, clipped_N])
            if found.jacobian_ND is None:
                return None
            return found.jacobian_ND * mx.array(weights_N * slope_N)[:, None]

        self._descend(pairs, slopes, training)
        value, entropy = (_split(column, counts) for column in columns[:2])
        empty = np.zeros(0, np.float32)
        clipped = _split(columns[2], counts) if items[0].old_log_probs else [empty] * len(items)
        return [
            TokenReport(v, e, empty, c) for v, e, c in zip(value, entropy, clipped, strict=True)
        ]

    def _descend(
        self,
        pairs: Sequence[Pair],
        slopes: Callable[[mx.array], mx.array | None],
        training: bool,
    ) -> None:
        """Read the student's sequences, and add the gradient of sum(hidden . slopes(hidden)).

        They are read twice, with the same dropout: for the numbers that the slopes depend on, and
        for the gradient. Numbers taken in the middle of one traced pass would keep every array of
        it alive, and undo gradient checkpointing (measured: 2.6 times the memory).
        """
        if not training:
            hidden_ND = self._read(pairs)
            mx.eval(hidden_ND)
            slopes(hidden_ND)
            return
        adapter, optimizer = self._require_adapter(), self._require_optimizer()
        own = adapter.parameters
        random = mx.array(_random_state()[0])
        adapter.drop_out(True)
        try:
            hidden_ND = self._read(pairs)
            mx.eval(hidden_ND, random)
            slope_ND = slopes(hidden_ND)
            assert slope_ND is not None
            slope_ND = slope_ND.astype(mx.float32)
            mx.eval(slope_ND)
            _random_state()[0][:] = random

            def surrogate_loss(parameters: Weights) -> mx.array:
                adapter.assign(parameters)
                return (self._read(pairs).astype(mx.float32) * slope_ND).sum()

            _, gradients = mx.value_and_grad(surrogate_loss)(own)
            optimizer.add(gradients)
        finally:
            adapter.drop_out(False)
            adapter.assign(own)

    def _read(self, pairs: Sequence[Pair]) -> mx.array:
        """Hidden states [N, D] at the positions that predict the completions' tokens."""
        longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
        limit = self.context_limit
        if limit is not None and longest > limit:
            raise ModelError(
                f"a sequence of {longest} tokens is longer than the model's context of {limit}",
                "set prompts.teacher.max_tokens, or lower sampling.max_new_tokens",
            )
        length = -(-longest // _LENGTHS) * _LENGTHS
        ids_BL = np.zeros((len(pairs), length), np.int32)
        predictors: list[int] = []
        for row, (prompt, completion) in enumerate(pairs):
            require_prompt(prompt)
            ids_BL[row, : len(prompt) + len(completion)] = [*prompt, *completion]
            first = row * length + len(prompt) - 1
            predictors.extend(range(first, first + len(completion)))
        hidden_BLD = self._network.hidden(mx.array(ids_BL))
        return hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[mx.array(predictors)]


def surrogate(
    batch: PolicyGradientBatch, items: Sequence[PolicyGradientItem], log_p_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The policy-gradient loss of each token, its slope in log p, and where a clip took hold.

    `PolicyGradientBatch` says what is computed. Float32 [N] each.
    """

    def column(name: str) -> np.ndarray:
        return np.array([x for item in items for x in getattr(item, name)], np.float64)

    log_p = log_p_N.astype(np.float64)
    advantage = column("advantages")
    clipped = np.zeros_like(log_p)
    if items[0].old_log_probs:
        ratio = np.exp(log_p - column("old_log_probs"))
        capped = np.clip(ratio, 1 - batch.clip_low, 1 + batch.clip_high)
        value = -np.minimum(ratio * advantage, capped * advantage)
        clipped = (capped * advantage < ratio * advantage).astype(np.float64)
        slope = -ratio * advantage * (1 - clipped)
    else:
        value, slope = -advantage * log_p, -advantage
    if batch.kl:
        gap = column("initial_log_probs") - log_p
        value = value + batch.kl * (np.exp(gap) - gap - 1)
        slope = slope + batch.kl * (1 - np.exp(gap))
    return value.astype(np.float32), slope.astype(np.float32), clipped.astype(np.float32)


def load_policy(config: Config, trainable: bool) -> MlxPolicy:
    """Model, tokenizer and adapter of a config."""
    return MlxPolicy(config, load(config), trainable)


def _random_state() -> list[mx.array]:
    """The generator's state, which is changed in place."""
    state: Any = mx.random.state
    return state


def _split(values_N: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Float32 arrays, one a sequence."""
    return np.split(np.asarray(values_N, np.float32), np.cumsum(counts)[:-1])


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
