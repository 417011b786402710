"""Shared part of the policies: micro-batches, reports, teacher weights, state files.

A backend's policy derives from `PolicyBase` and implements the passes over one micro-batch
(`backends.shared.policy_passes`). Nothing here knows of tensors: hidden states are handed from one
of the backend's methods to another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, Literal

import numpy as np

from backends.interface import (
    PLAIN,
    BatchReport,
    LossBatch,
    Memory,
    PolicyGradientBatch,
    Rollout,
    RolloutRequest,
    Sampling,
    TeacherWeights,
    TokenReport,
)
from backends.shared import state_files
from backends.shared.decoding import generate
from backends.shared.dropout import row_seeds
from backends.shared.loss_batches import (
    EMPTY,
    NOT_READ,
    filler_of,
    loss_of,
    loss_weights,
    part_of,
    sequences_of,
    split_report,
    split_tokens,
)
from backends.shared.micro_batches import PromptAndCompletion, batched
from backends.shared.observed import LearningReporter, Observed
from backends.shared.policy_passes import PassesOfABackend
from backends.shared.policy_protocols import AdapterT, MemoryMeter, OptimizerT, SplitModelT
from backends.shared.teacher_cache import Hidden, TeacherCache
from backends.shared.teacher_model import HasTeacherModel
from backends.shared.tokenizer import HuggingFaceTokenizer
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, TrainingError, UsageError


class PolicyBase(
    Observed,
    HasTeacherModel,
    PassesOfABackend[Hidden],
    Generic[SplitModelT, AdapterT, OptimizerT, Hidden],
):
    """See `backends.interface.Policy`.

    Args:
        config: the run.
        tokenizer: of its model.
        stop_ids: token ids that end a completion.

    Raises:
        UsageError: `train.loss_kernel` asks for what the device cannot run.
    """

    _split_model: SplitModelT
    _memory_meter: MemoryMeter

    def __init__(
        self, config: Config, tokenizer: HuggingFaceTokenizer, stop_ids: frozenset[int]
    ) -> None:
        kernel = config.train.loss_kernel
        if kernel not in self._loss_kernels():
            raise UsageError(
                f"train.loss_kernel is {kernel}, which needs an NVIDIA or AMD GPU",
                "leave it at auto",
            )
        self.config = config
        self.tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._adapter: AdapterT | None = None
        self._optimizer: OptimizerT | None = None
        self._teacher_cache: TeacherCache[Hidden] = TeacherCache()

    # -- the policy ------------------------------------------------------------------------------

    @property
    def stop_ids(self) -> frozenset[int]:
        """As `Policy.stop_ids`."""
        return self._stop_ids

    @property
    def context_limit(self) -> int | None:
        """As `Policy.context_limit`."""
        return self._split_model.context_limit

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """As `Policy.generate`; what is kept for further passes is dropped, to make room."""
        self._teacher_cache.clear()
        if role == "teacher" and teacher == "model":
            yield from self._generated_by_model(requests, sampling)
            return
        with self._reporting_out_of_memory("generate"):
            rollouts = generate(
                self._new_batch(sampling), requests, sampling, self._stop_ids, self.context_limit,
                self.config.rollouts.batch_size, self.tokenizer, observer=self._observer,
            )  # fmt: skip
            own = role == "student"
            yield from rollouts if own else self._generated_by_teacher(rollouts, teacher)

    def score(
        self,
        sequences: Sequence[PromptAndCompletion],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        """As `Policy.score`; greedy sampling scores as the plain distribution does."""
        weights: TeacherWeights = teacher if role == "teacher" else "live"
        if weights == "model":
            return self.load_teacher_model().score(sequences, sampling=sampling)
        scores = [EMPTY for _ in sequences]
        with self._reporting_out_of_memory("learn"):
            for rows in batched([[pair] for pair in sequences], self._budget):
                pairs = [sequences[row] for row in rows]
                with self._acting_with(weights):
                    scores_N = self._score_pairs(pairs, sampling)
                counts = [len(completion) for _, completion in pairs]
                for row, part_N in zip(rows, split_tokens(scores_N, counts), strict=True):
                    scores[row] = part_N
        return scores

    def measure(self, batch: LossBatch) -> BatchReport:
        """As `Policy.measure`."""
        return self._losses(batch, training=False)

    def accumulate(self, batch: LossBatch) -> BatchReport:
        """As `Policy.accumulate`."""
        self._require_optimizer()
        return self._losses(batch, training=True)

    def accumulate_units(
        self, batch: LossBatch, units: Sequence[Sequence[int]], passes: int = 0
    ) -> tuple[BatchReport, list[Any]]:
        """As `backends.interface.SharesGradients.accumulate_units`."""
        optimizer = self._require_optimizer()
        earlier = optimizer.take_gradient() if optimizer.has_gradient else None
        gradients: list[Any] = []
        report = self._losses(
            batch, True, units, lambda: gradients.append(optimizer.take_gradient()), passes
        )
        if optimizer.has_gradient:
            optimizer.take_gradient()  # of passes over fillers: zeros
        if earlier is not None:
            optimizer.add_gradient(earlier)
        return report, gradients

    def add_gradient(self, gradient: Any) -> None:
        """As `backends.interface.SharesGradients.add_gradient`."""
        self._require_optimizer().add_gradient(gradient)

    def apply(self, learning_rate: float) -> float:
        """As `Policy.apply`."""
        self._teacher_cache.updated()
        return self._require_optimizer().step(learning_rate)

    def save_adapter(self, folder: Path) -> None:
        """As `Policy.save_adapter`."""
        self._require_adapter().write(folder, self.config.model)

    def load_adapter(self, folder: Path) -> None:
        """As `Policy.load_adapter`; a policy loaded without an adapter takes this one whole."""
        if self._adapter is None:
            self._attach(folder)
        else:
            self._adapter.read(folder)

    def save(self, folder: Path) -> None:
        """As `Policy.save`."""
        optimizer, adapter = self._require_optimizer(), self._require_adapter()
        self.save_adapter(folder)
        state_files.write_state(folder, optimizer.state() | adapter.start_state())

    def restore(self, folder: Path) -> None:
        """As `Policy.restore`.

        Raises:
            ModelError: the folder is not what `save` wrote for this model and config.
        """
        optimizer, adapter = self._require_optimizer(), self._require_adapter()
        state = state_files.read_state(folder)
        what = str(folder / state_files.OPTIMIZER_FILE)
        adapter.read(folder)
        optimizer.load(state, what)
        adapter.load_start(state, what)

    def memory(self) -> Memory:
        """As `Policy.memory`."""
        return self._memory_meter.read()

    # -- losses ----------------------------------------------------------------------------------

    def _losses(
        self,
        batch: LossBatch,
        training: bool,
        units: Sequence[Sequence[int]] | None = None,
        after_unit: Callable[[], None] = lambda: None,
        passes: int = 0,
    ) -> BatchReport:
        """Loss and token reports of a batch; with `training`, the backward pass too.

        Args:
            units: indices of items, read unit by unit; None reads all of them as one.
            after_unit: called after each.
            passes: micro-batches to run at least; what is missing is filled up after the last unit.
        """
        sequences = sequences_of(batch)
        units = [range(len(sequences))] if units is None else units
        progress = LearningReporter(
            self._observer, sequences, {index for unit in units for index in unit}
        )
        reports = [NOT_READ for _ in batch.items]
        student_tokens = teacher_tokens = 0
        teacher_cached = self._teacher_cache.start(batch)
        with self._reporting_out_of_memory("learn"):
            for unit in units:
                for places in batched([sequences[index] for index in unit], self._budget):
                    rows = [unit[place] for place in places]
                    part = part_of(batch, rows)
                    report = self._run_micro_batch(part, rows, training)
                    passes -= 1
                    progress.read(rows)
                    counts = [len(batch.items[row].completion) for row in rows]
                    for row, own in zip(rows, split_report(report, counts), strict=True):
                        reports[row] = own
                        lengths = [len(prompt) + len(answer) for prompt, answer in sequences[row]]
                        student_tokens += lengths[0]
                        teacher_tokens += 0 if teacher_cached else sum(lengths[1:])
                after_unit()
            for number in range(passes):
                self._run_micro_batch(filler_of(batch), [len(batch.items) + number], training)
        tokens = student_tokens if training else 0
        return BatchReport(loss_of(batch, reports), tuple(reports), tokens, teacher_tokens)

    def _run_micro_batch(self, part: LossBatch, rows: list[int], training: bool) -> TokenReport:
        """Report of a micro-batch, whole; with `training`, add its gradient.

        The teacher's forward pass runs first, so the student's weights are restored before autograd
        records.

        Args:
            part: the batch with the micro-batch's items alone.
            rows: their indices in the batch, by which the teacher's hidden states are kept, and the
                random numbers of dropout drawn; those of fillers follow the batch's.
        """
        weights_N = loss_weights(part.items).astype(np.float32)
        if isinstance(part, PolicyGradientBatch):
            pairs = [(item.prompt, item.completion) for item in part.items]
            with self._dropping_out(rows, pairs, training):
                return self._policy_gradient_pass(pairs, part, weights_N, training)
        items = part.items
        reader = self.load_teacher_model() if part.teacher == "model" else self

        def read_teacher() -> Hidden:
            with self._acting_with(part.teacher):
                return reader._teacher_hidden([(i.teacher_prompt, i.completion) for i in items])

        teacher_ND = self._teacher_cache.hidden_states(rows, read_teacher)
        pairs = [(item.student_prompt, item.completion) for item in items]
        head = reader._split_model.head
        with self._dropping_out(rows, pairs, training):
            return self._divergence_pass(pairs, teacher_ND, head, weights_N, part.spec, training)

    def _dropping_out(
        self, rows: list[int], pairs: Sequence[PromptAndCompletion], on: bool
    ) -> AbstractContextManager[None]:
        """Tells the adapter's dropout, if it has any, which items the rows of a pass are."""
        if not on or self.config.lora.dropout == 0:
            return contextlib.nullcontext()
        update = self._require_optimizer().steps
        seeds_B = row_seeds(self.config.seed, update, rows)
        longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
        return self._require_adapter().dropping_out(seeds_B, longest)

    @contextlib.contextmanager
    def _acting_with(self, weights: TeacherWeights) -> Iterator[None]:
        """The model with the teacher's weights in the adapter's places, until the block ends.

        Raises:
            TrainingError: `ema`, and no EMA is kept.
        """
        adapter, optimizer = self._adapter, self._optimizer
        if adapter is None or weights in ("live", "model"):
            yield
        elif weights == "initial":
            with adapter.at_start():
                yield
        elif optimizer is None or not optimizer.has_ema:
            raise TrainingError(
                "there is no moving average of the weights", "set teacher.weights to ema"
            )
        else:
            with optimizer.using_ema():
                yield

    def _generated_by_teacher(
        self, rollouts: Iterator[Rollout], teacher: TeacherWeights
    ) -> Iterator[Rollout]:
        """The rollouts as they finish; between two of them the student's weights are in place."""
        while True:
            with self._acting_with(teacher):
                rollout = next(rollouts, None)
            if rollout is None:
                return
            yield rollout

    @property
    def _budget(self) -> int:
        """Tokens of a micro-batch."""
        return self.config.train.micro_batch_tokens

    def _require_optimizer(self) -> OptimizerT:
        """The optimiser; `ModelError` if the policy was loaded for inference."""
        if self._optimizer is None:
            raise ModelError("this policy was loaded for inference", "load it as trainable")
        return self._optimizer

    def _require_adapter(self) -> AdapterT:
        """The adapter; `ModelError` if there is none."""
        if self._adapter is None:
            raise ModelError("this policy has no adapter", "load one, or load it as trainable")
        return self._adapter
