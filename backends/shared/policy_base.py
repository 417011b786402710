"""What every policy does alike: cut a batch into micro-batches, add up reports, act as a teacher.

A backend's policy derives from this and says how one micro-batch is learnt from, and how its
adapter and optimiser are made. Nothing here knows of tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.interface import (
    BatchReport,
    DivergenceBatch,
    DivergenceItem,
    LossBatch,
    Memory,
    PolicyGradientItem,
    Rollout,
    TeacherWeights,
    TokenReport,
)
from backends.shared.micro_batches import Pair, micro_batches
from backends.shared.teacher_cache import TeacherCache
from backends.shared.tokenizer import HuggingFaceTokenizer
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, TrainingError, UsageError


class PolicyBase:
    """See `backends.interface.Policy`.

    Args:
        config: the run.
        tokenizer: of its model.
        stop_ids: token ids that end a completion.
    """

    #: The backend's own: `SplitModel`, `Adapter`, `AdapterOptimizer` and `MemoryMeter`.
    _network: Any
    _adapter: Any
    _optimizer: Any
    _meter: Any

    def __init__(
        self, config: Config, tokenizer: HuggingFaceTokenizer, stop_ids: frozenset[int]
    ) -> None:
        if config.train.loss_kernel == "triton" and not self._has_triton():
            raise UsageError(
                "train.loss_kernel is triton, which needs an NVIDIA or AMD GPU",
                "leave it at auto",
            )
        self.config = config
        self.tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._adapter = None
        self._optimizer = None
        self._teacher_kept = TeacherCache()

    @property
    def stop_ids(self) -> frozenset[int]:
        return self._stop_ids

    @property
    def context_limit(self) -> int | None:
        return self._network.context_limit

    def measure(self, batch: LossBatch) -> BatchReport:
        return self._losses(batch, training=False)

    def accumulate(self, batch: LossBatch) -> BatchReport:
        self._require_optimizer()
        return self._losses(batch, training=True)

    def apply(self, learning_rate: float) -> float:
        return self._require_optimizer().step(learning_rate)

    def save_adapter(self, folder: Path) -> None:
        self._require_adapter().write(folder, self.config.model)

    def load_adapter(self, folder: Path) -> None:
        """As `Policy.load_adapter`; a policy loaded without an adapter takes this one whole."""
        if self._adapter is None:
            self._attach(folder)
        else:
            self._adapter.read(folder)

    def memory(self) -> Memory:
        return self._meter.read()

    def _has_triton(self) -> bool:
        """Whether a Triton kernel can run on the policy's device."""
        return False

    # -- for the backend to say ----------------------------------------------------------------

    def _attach(self, folder: Path) -> None:
        """Put the folder's adapter into the model."""
        raise NotImplementedError

    def _learn(self, batch: LossBatch, rows: list[int], training: bool) -> list[TokenReport]:
        """Reports of a micro-batch, the items at `rows`; with `training`, add its gradient."""
        raise NotImplementedError

    # -- shared --------------------------------------------------------------------------------

    def _losses(self, batch: LossBatch, training: bool) -> BatchReport:
        """Loss and token reports; with `training`, the backward pass too."""
        if isinstance(batch, DivergenceBatch):
            sides = [
                [(i.student_prompt, i.completion), (i.teacher_prompt, i.completion)]
                for i in batch.items
            ]
        else:
            sides = [[(i.prompt, i.completion)] for i in batch.items]
        empty = np.zeros(0, np.float32)
        reports = [TokenReport(empty, empty, empty, empty) for _ in batch.items]
        read = [0, 0]
        self._teacher_kept.begin(batch)
        for rows in self._micro_batches(sides):
            for row, report in zip(rows, self._learn(batch, rows, training), strict=True):
                reports[row] = report
                for side, (prompt, completion) in enumerate(sides[row]):
                    read[side] += len(prompt) + len(completion)
        if self._teacher_kept.spared:
            read[1] = 0
        total = 0.0
        items: Sequence[DivergenceItem | PolicyGradientItem] = batch.items
        for item, report in zip(items, reports, strict=True):
            total += float(weights_in_loss([item]) @ report.value)
        return BatchReport(total, tuple(reports), read[0] if training else 0, read[1])

    @contextlib.contextmanager
    def _acting_with(self, weights: TeacherWeights) -> Iterator[None]:
        """The network with the teacher's weights in the adapter's places."""
        adapter = self._adapter
        if adapter is None or weights == "live":
            yield
        elif weights == "ema":
            ema = self._optimizer.ema if self._optimizer is not None else None
            if ema is None:
                raise TrainingError(
                    "there is no moving average of the weights", "set teacher.weights to ema"
                )
            with adapter.swapped(ema):
                yield
        elif adapter.start is None:
            with adapter.off():
                yield
        else:
            with adapter.swapped(adapter.start):
                yield

    def _drawn_by_teacher(
        self, drawn: Iterator[Rollout], teacher: TeacherWeights
    ) -> Iterator[Rollout]:
        """The rollouts as they finish; between two of them the student's weights are in place."""
        while True:
            with self._acting_with(teacher):
                rollout = next(drawn, None)
            if rollout is None:
                return
            yield rollout

    def _micro_batches(self, sides: Sequence[Sequence[Pair]]) -> Iterator[list[int]]:
        """Indices of items with a completion, by the longer of their sequences."""
        filled = [index for index, pairs in enumerate(sides) if pairs[0][1]]
        lengths = [max(len(p) + len(c) for p, c in sides[index]) for index in filled]
        for group in micro_batches(lengths, self.config.train.micro_batch_tokens):
            yield [filled[index] for index in group]

    def _require_optimizer(self) -> Any:
        if self._optimizer is None:
            raise ModelError("this policy was loaded for inference", "load it as trainable")
        return self._optimizer

    def _require_adapter(self) -> Any:
        if self._adapter is None:
            raise ModelError("this policy has no adapter", "load one, or load it as trainable")
        return self._adapter


def weights_in_loss(items: Sequence[DivergenceItem | PolicyGradientItem]) -> np.ndarray:
    """What each token of these items is multiplied by in the loss, one after another, float64."""
    weights = []
    for item in items:
        own = item.token_weights if isinstance(item, DivergenceItem) else ()
        weights.append(item.weight * np.asarray(own or np.ones(len(item.completion))))
    return np.concatenate(weights)


def counted(number: int) -> str:
    """A number of parameters for people: 748.8k, 1.7B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
