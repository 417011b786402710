"""The teacher's hidden states, kept while the same batch is trained on again.

A teacher of initial weights, or of another model, gives the same hidden states for the same tokens
however the student changes, so later passes over a batch need no teacher pass. The cache holds
[N, D] numbers, never logits, of one batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from backends.interface import FIXED_TEACHERS, DivergenceBatch, LossBatch

Hidden = TypeVar("Hidden")
"""Hidden states [N, D] as the backend has them."""


class TeacherCache(Generic[Hidden]):
    """Hidden states by micro-batch, of one batch at a time."""

    def __init__(self) -> None:
        self._batch: LossBatch | None = None
        self._hidden: dict[tuple[int, ...], Hidden] = {}

    def start(self, batch: LossBatch) -> bool:
        """Begin a pass over a batch; another batch's hidden states are dropped.

        Returns:
            True if the batch's hidden states are cached, so that no teacher pass is needed.
        """
        if batch is self._batch:
            return True
        keeps = (
            isinstance(batch, DivergenceBatch) and batch.again and batch.teacher in FIXED_TEACHERS
        )
        self._batch = batch if keeps else None
        self._hidden = {}
        return False

    def hidden_states(self, rows: Sequence[int], read: Callable[[], Hidden]) -> Hidden:
        """The hidden states of a micro-batch's rows: cached ones, else those that `read` gives."""
        key = tuple(rows)
        if key in self._hidden:
            return self._hidden[key]
        hidden = read()
        if self._batch is not None:
            self._hidden[key] = hidden
        return hidden
