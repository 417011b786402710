"""Rows decoded side by side on MLX, over mlx-lm's own models and batch caches.

mlx-lm's `BatchGenerator` calls one sampler for a whole batch without saying which row is whose, or
one Python function per row, at half the speed. Here every rollout consumes its own uniform numbers,
so the loop is `backends.shared.decoding`'s and the caches are mlx-lm's. This is the one module that
knows how those work; their interface changes between minor releases.

A prompt that several samples share is read once and its cache forked, and so is a long beginning
that all prompts share. Finished rows leave the batch at once.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache

from backends.interface import RolloutRequest, Sampling
from backends.mlx.sampler import draw
from backends.mlx.split_model import SplitModel
from backends.shared.decoding import Row, ShareRead, distinct_prompts
from opsd_cli.errors import ModelError

_PREFILL = 512
"""Prompt positions read at once."""


class MlxBatch:
    """See `backends.shared.decoding.DecodingBatch`."""

    admits = True

    def __init__(self, split_model: SplitModel, sampling: Sampling) -> None:
        self.split_model = split_model
        self.sampling = sampling
        self.rows: list[Row | None] = []
        self.cache: list[Any] = []
        self.last_B = mx.array([], mx.int32)

    def admit(self, rows: list[Row], read: ShareRead | None = None, shared: int = 0) -> None:
        """As `DecodingBatch.admit`; progress is known after every `_PREFILL` positions."""
        prompts, of_row = distinct_prompts(rows)
        cache = self._read(prompts, read, shared)
        if len(prompts) < len(rows):
            for layer in cache:
                layer.filter(mx.array(of_row))
        if self.rows:
            for layer, joining in zip(self.cache, cache, strict=True):
                layer.extend(joining)
        else:
            self.cache = cache
        last = mx.array([row.request.prompt_ids[-1] for row in rows], mx.int32)
        self.last_B = mx.concatenate([self.last_B, last]) if self.rows else last
        self.rows = [*self.rows, *rows]

    def draw(self) -> tuple[list[int], list[float]]:
        """As `DecodingBatch.draw`."""
        hidden_B1D = self.split_model.hidden(self.last_B[:, None], self.cache)
        logits_BV = self.split_model.head.logits(hidden_B1D[:, -1]).astype(mx.float32)
        uniform_B = np.array([row.next_uniform for row in self.rows if row is not None])
        tokens_B, log_probs_B = draw(logits_BV, self.sampling, uniform_B)
        self.last_B = mx.array(tokens_B.astype(np.int32))
        return tokens_B.tolist(), log_probs_B.tolist()

    def compact(self) -> None:
        """As `DecodingBatch.compact`; a finished row is dropped at once."""
        kept = [index for index, row in enumerate(self.rows) if row is not None]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        if not kept:
            self.cache = []
            return
        index_B = mx.array(kept)
        self.last_B = self.last_B[index_B]
        for layer in self.cache:
            layer.filter(index_B)

    def _read(
        self, prompts: list[tuple[int, ...]], read: ShareRead | None, shared: int
    ) -> list[Any]:
        """A batch cache that holds each prompt except its last token."""
        cache = self._empty(1 if shared else len(prompts))
        if shared and all(isinstance(layer, BatchKVCache) for layer in cache):
            self._read_on(cache, [prompts[0][: shared + 1]], None)
            for layer in cache:
                layer.filter(mx.zeros(len(prompts), mx.int32))
            return self._read_on(cache, [prompt[shared:] for prompt in prompts], read)
        if shared:
            cache = self._empty(len(prompts))
        return self._read_on(cache, prompts, read)

    def _empty(self, rows: int) -> list[Any]:
        """A batch cache of so many rows."""
        fresh = [self.split_model.new_cache() for _ in range(rows)]
        return [type(column[0]).merge(list(column)) for column in zip(*fresh, strict=True)]

    def _read_on(
        self, cache: list[Any], prompts: list[tuple[int, ...]], read: ShareRead | None
    ) -> list[Any]:
        """The cache, with each prompt's tokens added to its row, except the last token."""
        lengths = [len(prompt) - 1 for prompt in prompts]
        longest = max(lengths)
        if longest == 0:
            return cache
        if min(lengths) < longest and longest % _PREFILL == 1:
            longest += 1  # a rotating cache takes a last piece of one column for decoding
        padding = [longest - length for length in lengths]
        ids = mx.array([[*p[:-1], *[0] * pad] for p, pad in zip(prompts, padding, strict=True)])
        if max(padding):
            for layer in cache:
                layer.prepare(lengths=lengths, right_padding=padding)
        for start in range(0, longest, _PREFILL):
            self.split_model.hidden(ids[:, start : start + _PREFILL], cache)
            mx.eval([layer.state for layer in cache])
            if read is not None:
                read(min(1.0, (start + _PREFILL) / longest))
        if max(padding):
            for layer in cache:
                layer.finalize()
        return cache


def require_batches(split_model: SplitModel) -> None:
    """Check that a row's logits are the same alone and beside a longer row.

    Some of mlx-lm's architectures broadcast a batch's padding over the wrong axis, and would sample
    plausible nonsense without an error.

    Raises:
        ModelError: they differ.
    """
    prompts = [tuple(n % split_model.head.vocabulary for n in range(count)) for count in (3, 6)]
    together: list[mx.array] = []
    alone: list[mx.array] = []
    for group, logits in ((prompts, together), (prompts[:1], alone), (prompts[1:], alone)):
        batch = MlxBatch(split_model, Sampling())
        batch.admit([Row(RolloutRequest("", 0, p, 0), 1) for p in group])
        hidden_B1D = split_model.hidden(batch.last_B[:, None], batch.cache)
        logits.append(split_model.head.logits(hidden_B1D[:, -1]).astype(mx.float32))
    apart_BV, beside_BV = mx.concatenate(alone), together[0]
    if bool((mx.abs(apart_BV - beside_BV) > 0.05 * mx.abs(apart_BV).max() + 1e-6).any()):
        raise ModelError(
            f"mlx-lm's {split_model.settings.get('model_type')} reads padded batches wrongly",
            "use another architecture (Qwen3, Llama, Gemma 3 work), or the PyTorch backend",
        )
