"""From an engine's reports and its finished rollouts to a listener's events.

Every engine yields finished rollouts; those that are `backends.interface.Observable` also report
while they decode. What a listener is told changes no sample.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence

from backends.interface import (
    DecodingReport,
    LossBatch,
    Observable,
    Observer,
    Policy,
    PolicyGradientBatch,
    Rollout,
    RolloutRequest,
    Sampling,
)
from opsd_cli.tracking.listener import Decoded, Listener

Unfinished = Sequence[tuple[RolloutRequest, Sequence[int]]]
"""Requests with the token ids decoded so far."""


@contextlib.contextmanager
def observed(policy: Policy, observer: Observer) -> Iterator[None]:
    """Have a policy's calls reported to an observer until the end of the block, if it can."""
    if not isinstance(policy, Observable):
        yield
        return
    policy.observe(observer)
    try:
        yield
    finally:
        policy.observe(None)


class DecodingWatch:
    """Receives an engine's reports and finished rollouts; reports `Decoded` to a listener.

    Args:
        requests: what is sampled.
        policy: for the length of its context.
        on_unfinished: called with each report's unfinished completions.
    """

    def __init__(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        policy: Policy,
        listener: Listener,
        on_unfinished: Callable[[Unfinished], None] | None = None,
    ) -> None:
        self._listener, self._on_unfinished = listener, on_unfinished
        self._limit, self._context = sampling.max_new_tokens, policy.context_limit
        self._completions = len(requests)
        self._most = sum(map(self._room, requests))
        self._tokens = self._ended = self._finished = self._stopped = 0
        self._prompts: tuple[int, int, bool] = (0, 0, False)

    def _room(self, request: RolloutRequest) -> int:
        """The most tokens that a request's completion can have."""
        if self._context is None:
            return self._limit
        return max(0, min(self._limit, self._context - len(request.prompt_ids)))

    def decoding(self, report: DecodingReport) -> None:
        """As `Observer.decoding`."""
        self._tokens = max(self._tokens, report.tokens)
        self._prompts = (report.prompt_tokens, report.prompt_total, report.reading)
        self.tell()
        if self._on_unfinished is not None:
            self._on_unfinished(report.unfinished)

    def learning(self, done: int, total: int) -> None:
        """As `Observer.learning`: of no interest here."""

    def finished(self, rollout: Rollout) -> None:
        """A rollout is complete."""
        length = len(rollout.completion_ids)
        self._ended += length
        self._tokens = max(self._tokens, self._ended)
        self._most -= self._room(rollout.request) - length
        self._finished += 1
        self._stopped += rollout.finish_reason == "stop"
        self._prompts = (*self._prompts[:2], False)
        self.tell()

    def tell(self) -> None:
        """Report what is known."""
        self._listener.decoding(
            Decoded(
                self._tokens,
                max(self._tokens, self._most),
                self._completions,
                self._finished,
                self._stopped,
                *self._prompts,
            )
        )


def watched(
    rollouts: Iterator[Rollout],
    requests: Sequence[RolloutRequest],
    sampling: Sampling,
    policy: Policy,
    listener: Listener,
    on_unfinished: Callable[[Unfinished], None] | None = None,
) -> Iterator[Rollout]:
    """The rollouts that `policy.generate` gives, reported to a listener while they are sampled.

    Args:
        rollouts: not begun.
        requests: what they were asked for.
        on_unfinished: called a few times a second with the unfinished completions, by policies
            that are `Observable`.
    """
    if not requests:
        yield from rollouts
        return
    watch = DecodingWatch(requests, sampling, policy, listener, on_unfinished)
    watch.tell()
    try:
        with observed(policy, watch):
            for rollout in rollouts:
                watch.finished(rollout)
                yield rollout
    finally:
        if isinstance(rollouts, Generator):  # an engine gives up what is unfinished
            rollouts.close()


class BackgroundWatch:
    """Keeps the newest report of rollouts that are sampled in another thread.

    Args:
        completions: how many are sampled.
    """

    def __init__(self, completions: int) -> None:
        self._completions = completions
        self._newest: DecodingReport | None = None

    def decoding(self, report: DecodingReport) -> None:
        """As `Observer.decoding`; called in the other thread."""
        self._newest = report

    def learning(self, done: int, total: int) -> None:
        """As `Observer.learning`: of no interest here."""

    def tell(self, listener: Listener) -> None:
        """Report the newest numbers, if there are any."""
        report = self._newest
        if report is not None:
            listener.decoding(
                Decoded(
                    report.tokens,
                    report.most,
                    self._completions,
                    report.finished,
                    report.stopped,
                    report.prompt_tokens,
                    report.prompt_total,
                    report.reading,
                )
            )


class LearningWatch:
    """Receives the progress of loss batches, one after another, and reports that of all of them.

    Args:
        batches: in the order in which they are learnt.
    """

    def __init__(self, batches: Sequence[LossBatch], listener: Listener) -> None:
        self._listener = listener
        self._sizes = [_tokens_of(batch) for batch in batches]
        self._batch = 0
        self._tell(0)

    def decoding(self, report: DecodingReport) -> None:
        """As `Observer.decoding`: of no interest here."""

    def learning(self, done: int, total: int) -> None:
        """As `Observer.learning`, of the current batch."""
        size = self._sizes[self._batch]
        self._tell(round(size * done / max(1, total)))

    def batch_done(self) -> None:
        """The current batch is learnt."""
        self._batch += 1
        self._tell(0)

    def _tell(self, of_batch: int) -> None:
        done = sum(self._sizes[: self._batch]) + of_batch
        self._listener.learning(done, sum(self._sizes))


def _tokens_of(batch: LossBatch) -> int:
    """Tokens of a batch's sequences, of both roles where there are two."""
    if isinstance(batch, PolicyGradientBatch):
        return sum(len(item.prompt) + len(item.completion) for item in batch.items)
    return sum(
        len(item.student_prompt) + len(item.teacher_prompt) + 2 * len(item.completion)
        for item in batch.items
    )
