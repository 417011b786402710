"""The decoding loop of both backends: which rows are read, advanced, finished and dropped.

Continuous batching: rows are decoded side by side, a rollout is handed over in the step that ends
it, and as soon as a quarter of the batch is free, waiting prompts are read and join. The longest
prompts come first, so that what does not fit in memory fails at once. Each rollout consumes its
own uniform numbers, so its tokens do not depend on the other rows of the batch.

What a backend adds is a `DecodingBatch`: the arrays and caches of the rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Protocol

import numpy as np

from backends.interface import (
    DecodingReport,
    FinishReason,
    Observer,
    Rollout,
    RolloutRequest,
    Sampling,
    uniforms,
)
from backends.shared.micro_batches import require_prompt
from backends.shared.shared_prompts import shared_tokens
from backends.shared.stop_strings import Decoder, StopStrings, stop_strings
from opsd_cli.errors import TrainingError

JOIN_AT = 0.25
"""Share of the batch that has to be free before waiting prompts are read."""
REPORT_SECONDS = 0.1
"""Least time between two reports to an observer."""
ShareRead = Callable[[float], None]
"""Told now and then what share of the prompts being read is read, from 0 to 1."""


@dataclass
class Row:
    """An unfinished rollout: the tokens sampled so far, of at most `room`."""

    request: RolloutRequest
    room: int
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @cached_property
    def uniform_N(self) -> np.ndarray:
        """The uniform numbers that its tokens consume, float64 [room]."""
        return uniforms(self.request.seed, self.room)

    @property
    def next_uniform(self) -> float:
        """The uniform number that its next token consumes."""
        return float(self.uniform_N[len(self.ids)])

    def take(
        self,
        token: int,
        log_prob: float,
        stop_ids: frozenset[int],
        stop_strings: StopStrings | None = None,
    ) -> Rollout | None:
        """Add a token; returns the rollout if that token ends it.

        Raises:
            TrainingError: the log-probability is NaN.
        """
        if log_prob != log_prob:
            raise TrainingError(
                f"the model's logits are not numbers (problem {self.request.problem_id})",
                "the weights hold NaN or overflow in this dtype; try train.dtype float32",
            )
        self.ids.append(token)
        self.log_probs.append(log_prob)
        if token in stop_ids or (stop_strings is not None and stop_strings.end(self.ids)):
            return self.rollout("stop")
        return self.rollout("length") if len(self.ids) == self.room else None

    def rollout(self, reason: FinishReason) -> Rollout:
        """The finished rollout."""
        return Rollout(
            self.request, tuple(self.ids), np.asarray(self.log_probs, np.float32), reason
        )


class DecodingBatch(Protocol):
    """Rows decoded side by side on a backend."""

    rows: list[Row | None]
    """One entry per row of the backend's arrays; the loop sets None when that rollout is finished,
    and `compact` may drop it."""

    @property
    def admits(self) -> bool:
        """True if rows can be added now."""

    def admit(self, rows: list[Row], read: ShareRead | None = None, shared: int = 0) -> None:
        """Read the rows' prompts, all but the last token, and add the rows.

        Args:
            rows: one at least.
            read: told of the progress, at the points where the backend knows it.
            shared: leading tokens that all of the prompts share, fewer than the shortest has: they
                are read once, if the model's caches allow it.
        """

    def draw(self) -> tuple[list[int], list[float]]:
        """Sample the next token of every row; returns tokens and their log-probabilities."""

    def compact(self) -> None:
        """Drop finished rows if that is worth a copy; with none left, become empty."""


class DecodingReporter:
    """Reports the progress of a call of `generate` to an observer, at most every `REPORT_SECONDS`.

    Args:
        rows: all rows of the call, none begun.
        observer: None reports nothing.
        clock: seconds.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        observer: Observer | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observer, self._clock = observer, clock
        self._most = sum(row.room for row in rows)
        self._tokens = self._finished = self._stopped = 0
        self._reported = float("-inf")
        self._prompt_tokens = self._prompt_total = 0
        self._reading = False

    def reading(
        self, joining: Sequence[Row], waiting: Iterable[Row], rows: Sequence[Row | None]
    ) -> ShareRead | None:
        """The prompts of some rows are about to be read; returns what is to be told of it.

        Args:
            joining: the rows whose prompts are read now.
            waiting: those whose prompts are read later.
            rows: those of the batch, which wait meanwhile.
        """
        if self._observer is None:
            return None
        before, size = self._prompt_tokens, prompt_tokens(joining)
        self._prompt_total = before + size + prompt_tokens(waiting)

        def read(share: float) -> None:
            self._prompt_tokens = before + round(share * size)
            self._reading = share < 1
            if self._reading:  # the first at once: the next one may be seconds away
                self.report(rows, at_once=share == 0)

        read(0.0)
        return read

    def ended(self, room: int, rollout: Rollout) -> None:
        """A row of this room has finished with this rollout."""
        self._tokens += len(rollout.completion_ids)
        self._most -= room - len(rollout.completion_ids)
        self._finished += 1
        self._stopped += rollout.finish_reason == "stop"

    def report(self, rows: Sequence[Row | None], at_once: bool = False) -> None:
        """Report, if it is time to.

        Args:
            rows: those of the batch; finished ones are None.
            at_once: report in any case. For engines that do not report token by token: their next
                report may be minutes away.
        """
        early = self._clock() - self._reported < REPORT_SECONDS
        if self._observer is None or (early and not at_once):
            return
        running = [row for row in rows if row is not None]
        self._observer.decoding(
            DecodingReport(
                tokens=self._tokens + sum(len(row.ids) for row in running),
                most=self._most,
                finished=self._finished,
                stopped=self._stopped,
                unfinished=[(row.request, row.ids) for row in running],
                prompt_tokens=self._prompt_tokens,
                prompt_total=self._prompt_total,
                reading=self._reading,
            )
        )
        self._reported = self._clock()


def generate(
    batch: DecodingBatch,
    requests: Sequence[RolloutRequest],
    sampling: Sampling,
    stop_ids: frozenset[int],
    context_limit: int | None,
    batch_size: int,
    tokenizer: Decoder | None = None,
    observer: Observer | None = None,
) -> Iterator[Rollout]:
    """Sample every request, yielding each rollout as it finishes.

    A completion ends with its stop token or stop string, or at `max_new_tokens`, or where the
    model's context ends; a prompt that fills the context gives a completion of no tokens. No
    context manager of the batch stays open across a `yield`: the caller may learn, or swap weights,
    between rollouts.

    Args:
        batch: an empty batch of the backend.
        requests: what to sample.
        sampling: as `batch` samples; only `max_new_tokens` and `stop` are read here.
        stop_ids: token ids that end a completion.
        context_limit: the most positions of prompt and completion together; None is no limit.
        batch_size: the most rows decoded side by side.
        tokenizer: decodes completions to find `sampling.stop`; needed only with stop strings.
        observer: receives the progress.

    Raises:
        ModelError: a prompt has no tokens.
        TrainingError: the model's logits are NaN.
    """
    strings = stop_strings(sampling.stop, tokenizer)
    rows, full = begin(requests, sampling, context_limit)
    shared = shared_tokens([row.request for row in rows])
    reporter = DecodingReporter(rows, observer)
    yield from full
    waiting = deque(rows)
    while waiting or batch.rows:
        free = batch_size - len(batch.rows)
        if waiting and batch.admits and (not batch.rows or free >= JOIN_AT * batch_size):
            joining = next_groups(waiting, free, whole=bool(batch.rows))
            if joining:
                read = reporter.reading(joining, waiting, batch.rows)
                batch.admit(joining, read, shared)
                if read is not None:
                    read(1.0)
        tokens, log_probs = batch.draw()
        for index, row in enumerate(batch.rows):
            if row is None:
                continue
            rollout = row.take(tokens[index], log_probs[index], stop_ids, strings)
            if rollout is not None:
                batch.rows[index] = None
                reporter.ended(row.room, rollout)
                yield rollout
        reporter.report(batch.rows)
        batch.compact()


def begin(
    requests: Sequence[RolloutRequest], sampling: Sampling, context_limit: int | None
) -> tuple[list[Row], list[Rollout]]:
    """Rows to sample, longest prompt first, and empty rollouts for prompts that fill the context.

    Raises:
        ModelError: a prompt has no tokens.
    """
    waiting: list[Row] = []
    full: list[Rollout] = []
    for request in sorted(requests, key=lambda request: -len(request.prompt_ids)):
        require_prompt(request.prompt_ids)
        room = sampling.max_new_tokens
        if context_limit is not None:
            room = min(room, context_limit - len(request.prompt_ids))
        row = Row(request, room)
        if room > 0:
            waiting.append(row)
        else:
            full.append(row.rollout("length"))
    return waiting, full


def next_groups(waiting: deque[Row], free: int, whole: bool) -> list[Row]:
    """Take the next rows to read, at most `free`; with `whole`, a prompt's samples stay together.

    Samples of one prompt are neighbours, and reading them together reads the prompt once.
    """
    taken: list[Row] = []
    while waiting and len(taken) < free:
        prompt = waiting[0].request.prompt_ids
        group = 0
        while group < len(waiting) and waiting[group].request.prompt_ids == prompt:
            group += 1
        if len(taken) + group > free and (taken or whole):
            break
        taken += [waiting.popleft() for _ in range(min(group, free))]
    return taken


def prompt_tokens(rows: Iterable[Row]) -> int:
    """Tokens of the rows' prompts; neighbours with the same prompt count once."""
    return sum(len(prompt) for prompt, _ in groupby(row.request.prompt_ids for row in rows))


def distinct_prompts(rows: Sequence[Row]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The distinct prompts of the rows, in order, and the index of each row's prompt among them."""
    index_of: dict[tuple[int, ...], int] = {}
    of_row = [index_of.setdefault(row.request.prompt_ids, len(index_of)) for row in rows]
    return list(index_of), of_row
