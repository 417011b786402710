"""The teacher's hidden states, kept while the same batch is trained on again.

A teacher of initial weights, or of another model, gives the same hidden states for the same tokens
however the student changes, so later passes over a batch need no teacher pass. The cache holds
[N, D] numbers, never logits, of one batch at a time: the last one that is trained on again. A batch
that is not, such as an update's anchor, may come between two passes over it.
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
        self._reads_kept = False
        self._hidden: dict[tuple[int, ...], Hidden] = {}

    def start(self, batch: LossBatch) -> bool:
        """Begin a pass over a batch; if its hidden states are to be kept, another's are dropped.

        Returns:
            True if the batch's hidden states are cached, so that no teacher pass is needed.
        """
        if batch is self._batch:
            self._reads_kept = True
            return True
        keeps = (
            isinstance(batch, DivergenceBatch) and batch.again and batch.teacher in FIXED_TEACHERS
        )
        self._reads_kept = keeps
        if keeps:
            self._batch, self._hidden = batch, {}
        return False

    def hidden_states(self, rows: Sequence[int], read: Callable[[], Hidden]) -> Hidden:
        """The hidden states of a micro-batch's rows: cached ones, else those that `read` gives."""
        if not self._reads_kept:
            return read()
        key = tuple(rows)
        if key not in self._hidden:
            self._hidden[key] = read()
        return self._hidden[key]
