"""The progress of all ranks as one: what rank 0's observer is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backends.interface import DecodingReport, Observer


@dataclass(frozen=True)
class RankProgress:
    """How far a worker is with its share of a call: `DecodingReport` without the completions."""

    tokens: int
    most: int
    finished: int = 0
    stopped: int = 0
    prompt_tokens: int = 0
    prompt_total: int = 0


class MergedProgress:
    """Receives rank 0's own progress and that of the workers, and reports the sum.

    Args:
        observer: whom it reports to.
        check: raises an error if a worker has ended, so that a long call ends too.
    """

    def __init__(self, observer: Observer, check: Callable[[], None]) -> None:
        self._observer, self._check = observer, check
        self._others: dict[int, RankProgress] = {}
        self._size = 1
        self._own: DecodingReport | None = None

    def begin(self, size: int) -> None:
        """A call on so many ranks begins."""
        self._size, self._others, self._own = size, {}, None

    def of_worker(self, rank: int, progress: RankProgress) -> None:
        """News of a worker."""
        self._others[rank] = progress
        if self._own is not None:
            self._tell(self._own)

    def decoding(self, report: DecodingReport) -> None:
        """As `Observer.decoding`, of rank 0."""
        self._check()
        self._own = report
        self._tell(report)

    def learning(self, done: int, total: int) -> None:
        """As `Observer.learning`, of rank 0; shares are of about equal length."""
        self._check()
        self._observer.learning(done * self._size, total * self._size)

    def _tell(self, own: DecodingReport) -> None:
        others = list(self._others.values())
        # A worker that has not reported yet has about as much to do as rank 0.
        silent = self._size - 1 - len(others)
        self._observer.decoding(
            DecodingReport(
                tokens=own.tokens + sum(other.tokens for other in others),
                most=own.most * (1 + silent) + sum(other.most for other in others),
                finished=own.finished + sum(other.finished for other in others),
                stopped=own.stopped + sum(other.stopped for other in others),
                unfinished=own.unfinished,
                prompt_tokens=own.prompt_tokens + sum(other.prompt_tokens for other in others),
                prompt_total=own.prompt_total * (1 + silent)
                + sum(other.prompt_total for other in others),
                reading=own.reading,
            )
        )
