"""The teacher's hidden states, kept while the same batches are trained on again.

A teacher of initial weights, or of another model, gives the same hidden states for the same tokens
however the student changes, so later passes over a batch need no teacher pass. The cache holds
[N, D] numbers, never logits, of the batches of one update: the loss batch, and the anchor where its
teacher is the initial policy. A batch that is not trained on again may come between two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from backends.interface import FIXED_TEACHERS, DivergenceBatch, LossBatch

Hidden = TypeVar("Hidden")
"""Hidden states [N, D] as the backend has them."""


#: Batches of one update, at most.
MOST = 2


class TeacherCache(Generic[Hidden]):
    """Hidden states by micro-batch, of the batches of one update."""

    def __init__(self) -> None:
        self._kept: list[tuple[LossBatch, dict[tuple[int, ...], Hidden]]] = []
        self._current: dict[tuple[int, ...], Hidden] | None = None
        self._updated = False

    def start(self, batch: LossBatch) -> bool:
        """Begin a pass over a batch; if its hidden states are to be kept, those of earlier updates'
        batches are dropped.

        Returns:
            True if the batch's hidden states are cached, so that no teacher pass is needed.
        """
        self._current = next((hidden for known, hidden in self._kept if known is batch), None)
        if self._current is not None:
            return True
        if isinstance(batch, DivergenceBatch) and batch.again and batch.teacher in FIXED_TEACHERS:
            self._current = {}
            before = [] if self._updated else self._kept[-(MOST - 1) :]
            self._kept = [*before, (batch, self._current)]
            self._updated = False
        return False

    def updated(self) -> None:
        """The optimiser has taken a step: a batch that is new now is of another update."""
        self._updated = True

    def clear(self) -> None:
        """Drop everything: the step is over."""
        self._kept, self._current = [], None

    def hidden_states(self, rows: Sequence[int], read: Callable[[], Hidden]) -> Hidden:
        """The hidden states of a micro-batch's rows: cached ones, else those that `read` gives."""
        if self._current is None:
            return read()
        key = tuple(rows)
        if key not in self._current:
            self._current[key] = read()
        return self._current[key]
