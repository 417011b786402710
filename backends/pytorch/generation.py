"""Rollouts: a decoding loop of our own over transformers' models and caches.

transformers' `generate` gives no log-probabilities of the filtered distribution without keeping
every step's logits, draws from one random stream for the whole batch, and returns a batch only
when its longest member is done. Here each rollout consumes its own uniform numbers, so what it
becomes does not depend on its company; it is handed over in the step that ends it; once a quarter
of the rows have ended, the cache is copied without them; and as soon as a quarter of the batch is
free, waiting prompts are read and join it.

The longest prompts come first, so that what does not fit in memory shows at once. A prompt that
several samples share is read once, and the cache's row is copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from backends.interface import Rollout, RolloutRequest, Sampling
from backends.pytorch import cache as caches
from backends.pytorch.batching import pad_left
from backends.pytorch.sampler import draw
from backends.pytorch.split_model import SplitModel
from backends.shared.decoding import Row, begin, next_groups

_COMPACT_AT = 0.25
"""Share of finished rows at which the batch is copied without them."""
_JOIN_AT = 0.25
"""Share of the batch that has to be free for waiting prompts to be read."""


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
        if waiting and batch.admits and (not batch.rows or free >= _JOIN_AT * batch_size):
            batch.admit(next_groups(waiting, free, whole=bool(batch.rows)))
        yield from batch.step()


class _Batch:
    """Rows decoded side by side.

    No context manager stays open across a `yield`: what the caller does between two rollouts must
    not run in inference mode.
    """

    def __init__(self, network: SplitModel, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        self.network = network
        self.sampling = sampling
        self.stop_ids = stop_ids
        #: One entry a row of the tensors; None once that rollout was handed over.
        self.rows: list[Row | None] = []
        #: Of the cache; each row's own are the last `length_B` of them.
        self.columns = 0
        self.cache = network.new_cache()
        self.last_B = torch.zeros(0, dtype=torch.long, device=network.device)
        self.length_B = self.last_B

    @property
    def admits(self) -> bool:
        """Whether rows can be added now."""
        return not self.rows or (None not in self.rows and caches.can_join(self.cache))

    def step(self) -> Iterator[Rollout]:
        """One more token for every row; hands over those that end."""
        tokens_B, log_probs_B = self._draw()
        yield from self._collect(tokens_B.tolist(), log_probs_B.tolist())
        self._compact()

    @torch.inference_mode()
    def admit(self, rows: list[Row]) -> None:
        """Read the rows' prompts, all but the last token, and add the rows."""
        if not rows:
            return
        prompts: dict[tuple[int, ...], int] = {}
        of_row = [prompts.setdefault(row.request.prompt_ids, len(prompts)) for row in rows]
        device = self.network.device
        ids_PL, mask_PL, positions_PL = pad_left(list(prompts), device)
        columns = ids_PL.shape[1] - 1
        # Without padding no mask is passed, and attention need not build one.
        padded = min(map(len, prompts)) <= columns
        cache = self.network.new_cache()
        if columns:
            self.network.hidden(
                ids_PL[:, :-1], mask_PL[:, :-1] if padded else None, positions_PL[:, :-1], cache
            )
        index_B = torch.tensor(of_row, device=device)
        if len(prompts) < len(rows):
            caches.select(cache, index_B)
        last_B = ids_PL[index_B, -1]
        lengths = torch.tensor([len(row.request.prompt_ids) - 1 for row in rows], device=device)
        if self.rows:
            caches.join(self.cache, cache, len(rows))
            self.columns = max(self.columns, columns)
            self.last_B = torch.cat([self.last_B, last_B])
            self.length_B = torch.cat([self.length_B, lengths])
        else:
            self.cache, self.columns = cache, columns
            self.last_B, self.length_B = last_B, lengths
        self.rows = [*self.rows, *rows]

    @torch.inference_mode()
    def _draw(self) -> tuple[Tensor, Tensor]:
        self.columns += 1
        self.length_B = self.length_B + 1
        ahead_B1 = self.columns - self.length_B[:, None]
        mask_BT: Tensor | None = None
        if bool(ahead_B1.any()):
            mask_BT = torch.arange(self.columns, device=self.network.device) >= ahead_B1
        hidden_B1D = self.network.hidden(
            self.last_B[:, None], mask_BT, self.length_B[:, None] - 1, self.cache
        )
        logits_BV = self.network.logits(hidden_B1D[:, -1])
        numbers = [0.0 if row is None else row.uniform_N[len(row.ids)] for row in self.rows]
        uniform_B = torch.from_numpy(np.array(numbers)).to(self.network.device)
        self.last_B, log_probs_B = draw(logits_BV, self.sampling, uniform_B)
        return self.last_B, log_probs_B

    def _collect(self, tokens: list[int], log_probs: list[float]) -> Iterator[Rollout]:
        for index, row in enumerate(self.rows):
            if row is None:
                continue
            rollout = row.take(tokens[index], log_probs[index], self.stop_ids)
            if rollout is not None:
                self.rows[index] = None
                yield rollout

    @torch.inference_mode()
    def _compact(self) -> None:
        """Drop the rows that ended, once they are enough."""
        kept = [index for index, row in enumerate(self.rows) if row is not None]
        finished = len(self.rows) - len(kept)
        if not kept:
            self.rows, self.columns = [], 0
        elif finished and finished >= _COMPACT_AT * len(self.rows):
            index_B = torch.tensor(kept, device=self.network.device)
            self.rows = [self.rows[index] for index in kept]
            self.last_B, self.length_B = self.last_B[index_B], self.length_B[index_B]
            first = 0
            if caches.can_join(self.cache):
                first = self.columns - int(self.length_B.max())
                self.columns -= first
            caches.select(self.cache, index_B, first)
