"""A policy that forwards everything to another one; a subclass overrides what it does itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from backends.interface import (
    PLAIN,
    BatchReport,
    LossBatch,
    Memory,
    Observable,
    Observer,
    Policy,
    Rollout,
    RolloutRequest,
    Sampling,
    SpansProcesses,
    TeacherWeights,
)


class DelegatingPolicy:
    """Every member of `backends.interface.Policy`, forwarded by name.

    Args:
        inner: the policy that does the work.
    """

    def __init__(self, inner: Policy) -> None:
        self._inner = inner
        self.tokenizer = inner.tokenizer

    @property
    def description(self) -> str:
        return self._inner.description

    @property
    def parameter_count(self) -> int:
        return self._inner.parameter_count

    @property
    def stop_ids(self) -> frozenset[int]:
        return self._inner.stop_ids

    @property
    def context_limit(self) -> int | None:
        return self._inner.context_limit

    @property
    def processes(self) -> int:
        return self._inner.processes if isinstance(self._inner, SpansProcesses) else 1

    @property
    def cpu_seconds(self) -> float:
        return self._inner.cpu_seconds if isinstance(self._inner, SpansProcesses) else 0.0

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        return self._inner.generate(requests, sampling, role, teacher)

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        return self._inner.score(sequences, role, teacher, sampling)

    def measure(self, batch: LossBatch) -> BatchReport:
        return self._inner.measure(batch)

    def accumulate(self, batch: LossBatch) -> BatchReport:
        return self._inner.accumulate(batch)

    def apply(self, learning_rate: float) -> float:
        return self._inner.apply(learning_rate)

    def save_adapter(self, folder: Path) -> None:
        self._inner.save_adapter(folder)

    def save_merged(self, folder: Path, dtype: str | None = None) -> None:
        self._inner.save_merged(folder, dtype)

    def save(self, folder: Path) -> None:
        self._inner.save(folder)

    def restore(self, folder: Path) -> None:
        self._inner.restore(folder)

    def load_adapter(self, folder: Path) -> None:
        self._inner.load_adapter(folder)

    def memory(self) -> Memory:
        return self._inner.memory()

    def observe(self, observer: Observer | None) -> None:
        if isinstance(self._inner, Observable):
            self._inner.observe(observer)
