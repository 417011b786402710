"""The teacher's hidden states, kept while the same batch is learnt from again.

A teacher of initial weights says the same of the same tokens however the student moves, so later
passes over a batch need not ask it again. What is kept is [N, D], never logits; and it is dropped
as soon as another batch comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from backends.interface import DivergenceBatch, LossBatch


class TeacherCache:
    """Hidden states by micro-batch, of one batch at a time."""

    def __init__(self) -> None:
        self._batch: LossBatch | None = None
        self._hidden: dict[tuple[int, ...], Any] = {}
        #: Whether the batch at hand was read before, so that the teacher reads nothing.
        self.spared = False

    def begin(self, batch: LossBatch) -> None:
        """Say which batch comes next."""
        self.spared = batch is self._batch
        if self.spared:
            return
        keeps = isinstance(batch, DivergenceBatch) and batch.again and batch.teacher == "initial"
        self._batch = batch if keeps else None
        self._hidden = {}

    def get(self, rows: Sequence[int], read: Callable[[], Any]) -> Any:
        """The hidden states of these rows, by `read` unless they are kept."""
        key = tuple(rows)
        if key in self._hidden:
            return self._hidden[key]
        hidden = read()
        if self._batch is not None:
            self._hidden[key] = hidden
        return hidden
