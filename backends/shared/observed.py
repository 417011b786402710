"""The reports of a policy's long calls to an observer (`backends.interface.Observable`)."""

from __future__ import annotations

from collections.abc import Container, Sequence

from backends.interface import Observer
from backends.shared.micro_batches import PromptAndCompletion


class Observed:
    """A policy that has an observer, or none: see `backends.interface.Observable`."""

    _observer: Observer | None = None

    def observe(self, observer: Observer | None) -> None:
        """As `Observable.observe`."""
        self._observer = observer


class LearningReporter:
    """Reports after each micro-batch how many of a batch's tokens have been read.

    Args:
        observer: None reports nothing.
        sequences: the sequences of each item; an item without a completion is not read.
        read: indices of the items that are.
    """

    def __init__(
        self,
        observer: Observer | None,
        sequences: Sequence[Sequence[PromptAndCompletion]],
        read: Container[int],
    ) -> None:
        self._observer = observer
        self._tokens = [
            sum(len(prompt) + len(completion) for prompt, completion in pairs)
            if index in read and pairs[0][1]
            else 0
            for index, pairs in enumerate(sequences)
        ]
        self._done = 0

    def read(self, rows: Sequence[int]) -> None:
        """A micro-batch of the items at `rows` is done."""
        self._done += sum(self._tokens[row] for row in rows)
        if self._observer is not None:
            self._observer.learning(self._done, sum(self._tokens))
