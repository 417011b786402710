"""Rollouts on MLX: continuous batching over mlx-lm's own models and batch caches.

mlx-lm's `BatchGenerator` calls one sampler for a whole batch without saying which row is whose, or
one Python function a row, at half the speed. Here every rollout consumes its own uniform numbers,
so the loop is ours and the caches are mlx-lm's. This is the one module that knows how those work;
their interface changes between minor releases.

A prompt that several samples share is read once and its cache forked. Rows that end leave the
batch at once, and as soon as a quarter of it is free, waiting prompts are read and join.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from backends.interface import Rollout, RolloutRequest, Sampling
from backends.mlx.sampler import draw
from backends.mlx.split_model import SplitModel
from backends.shared.decoding import Row, begin, next_groups
from opsd_cli.errors import ModelError

_JOIN_AT = 0.25
"""Share of free rows at which waiting prompts are read."""
_PREFILL = 512
"""Prompt positions read at once."""


def generate(
    network: SplitModel,
    requests: Sequence[RolloutRequest],
    sampling: Sampling,
    stop_ids: frozenset[int],
    batch_size: int,
) -> Iterator[Rollout]:
    """Draw every request, yielding each rollout as it finishes.

    A completion ends with its stop token, or at `max_new_tokens`, or where the model's context
    ends; a prompt that fills the context gives a completion of no tokens.

    Raises:
        ModelError: a prompt has no tokens.
        TrainingError: the model's logits are not numbers.
    """
    rows, full = begin(requests, sampling, network.context_limit)
    yield from full
    waiting = deque(rows)
    batch = _Batch(network, sampling, stop_ids)
    while waiting or batch.rows:
        free = batch_size - len(batch.rows)
        if waiting and (not batch.rows or free >= _JOIN_AT * batch_size):
            batch.admit(next_groups(waiting, free, whole=bool(batch.rows)))
        yield from batch.step()


def require_batches(network: SplitModel) -> None:
    """Raise `ModelError` unless a row is read alike alone and beside a longer one.

    Some of mlx-lm's architectures broadcast a batch's padding over the wrong axis, and would draw
    plausible nonsense without a word.
    """
    prompts = [tuple(n % network.head.vocabulary for n in range(count)) for count in (3, 6)]
    together: list[mx.array] = []
    alone: list[mx.array] = []
    for group, logits in ((prompts, together), (prompts[:1], alone), (prompts[1:], alone)):
        batch = _Batch(network, Sampling(), frozenset())
        batch.admit([Row(RolloutRequest("", 0, p, 0), 1) for p in group])
        hidden_B1D = network.hidden(batch.last_B[:, None], batch.cache)
        logits.append(network.head.logits(hidden_B1D[:, -1]).astype(mx.float32))
    apart_BV, beside_BV = mx.concatenate(alone), together[0]
    if bool((mx.abs(apart_BV - beside_BV) > 0.05 * mx.abs(apart_BV).max() + 1e-6).any()):
        raise ModelError(
            f"mlx-lm's {network.settings.get('model_type')} reads padded batches wrongly",
            "use another architecture (Qwen3, Llama, Gemma 3 work), or the PyTorch backend",
        )


class _Batch:
    """Rows decoded side by side."""

    def __init__(self, network: SplitModel, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        self.network = network
        self.sampling = sampling
        self.stop_ids = stop_ids
        self.rows: list[Row] = []
        self.cache: list[Any] = []
        self.last_B = mx.array([], mx.int32)

    def admit(self, rows: list[Row]) -> None:
        """Read the rows' prompts, all but the last token, and add the rows."""
        if not rows:
            return
        prompts: dict[tuple[int, ...], int] = {}
        of_row = [prompts.setdefault(row.request.prompt_ids, len(prompts)) for row in rows]
        cache = self._read(list(prompts))
        if len(prompts) < len(rows):
            for part in cache:
                part.filter(mx.array(of_row))
        if self.rows:
            for mine, theirs in zip(self.cache, cache, strict=True):
                mine.extend(theirs)
        else:
            self.cache = cache
        last = mx.array([row.request.prompt_ids[-1] for row in rows], mx.int32)
        self.last_B = mx.concatenate([self.last_B, last]) if self.rows else last
        self.rows = self.rows + rows

    def _read(self, prompts: list[tuple[int, ...]]) -> list[Any]:
        """A batch cache that holds each prompt but for its last token."""
        fresh = [self.network.new_cache() for _ in prompts]
        cache = [type(column[0]).merge(list(column)) for column in zip(*fresh, strict=True)]
        lengths = [len(prompt) - 1 for prompt in prompts]
        longest = max(lengths)
        if longest == 0:
            return cache
        if min(lengths) < longest and longest % _PREFILL == 1:
            longest += 1  # a rotating cache takes a last piece of one column for decoding
        padding = [longest - length for length in lengths]
        ids = mx.array([[*p[:-1], *[0] * pad] for p, pad in zip(prompts, padding, strict=True)])
        if max(padding):
            for part in cache:
                part.prepare(lengths=lengths, right_padding=padding)
        for start in range(0, longest, _PREFILL):
            self.network.hidden(ids[:, start : start + _PREFILL], cache)
            mx.eval([part.state for part in cache])
        if max(padding):
            for part in cache:
                part.finalize()
        return cache

    def step(self) -> Iterator[Rollout]:
        """One more token for every row; hands over those that end, and drops them."""
        hidden_B1D = self.network.hidden(self.last_B[:, None], self.cache)
        logits_BV = self.network.head.logits(hidden_B1D[:, -1]).astype(mx.float32)
        uniform_B = np.array([row.uniform_N[len(row.ids)] for row in self.rows])
        tokens_B, log_probs_B = draw(logits_BV, self.sampling, uniform_B)
        finished: list[Rollout] = []
        kept: list[int] = []
        for index, row in enumerate(self.rows):
            rollout = row.take(int(tokens_B[index]), float(log_probs_B[index]), self.stop_ids)
            if rollout is None:
                kept.append(index)
            else:
                finished.append(rollout)
        self._keep(kept, tokens_B)
        yield from finished

    def _keep(self, kept: list[int], tokens_B: np.ndarray) -> None:
        if len(kept) < len(self.rows):
            self.rows = [self.rows[index] for index in kept]
            if kept:
                for part in self.cache:
                    part.filter(mx.array(kept))
            else:
                self.cache = []
        self.last_B = mx.array(tokens_B[kept].astype(np.int32))
