"""Rows decoded side by side on PyTorch, over transformers' models and caches.

transformers' `generate` gives no log-probabilities of the filtered distribution without keeping
every step's logits, samples from one random stream for the whole batch, and returns a batch only
when its longest member is done; `backends.shared.decoding` therefore has a loop of its own, and
this module the tensors. Once a quarter of the rows have finished, the cache is copied without
them. A prompt that several samples share is read once, and the cache's row is copied.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backends.interface import Sampling
from backends.pytorch import cache as caches
from backends.pytorch.padding import pad_left
from backends.pytorch.sampler import draw
from backends.pytorch.split_model import SplitModel
from backends.shared.decoding import Row, ShareRead, distinct_prompts

_COMPACT_AT = 0.25
"""Share of finished rows at which the batch is copied without them."""


class TorchBatch:
    """See `backends.shared.decoding.DecodingBatch`."""

    def __init__(self, split_model: SplitModel, sampling: Sampling) -> None:
        self.split_model = split_model
        self.sampling = sampling
        self.rows: list[Row | None] = []
        #: Columns of the cache; each row's own are the last `length_B` of them.
        self.columns = 0
        self.cache = split_model.new_cache()
        self.last_B = torch.zeros(0, dtype=torch.long, device=split_model.device)
        self.length_B = self.last_B

    @property
    def admits(self) -> bool:
        """As `DecodingBatch.admits`; rows cannot join finished ones, nor sliding windows."""
        return not self.rows or (None not in self.rows and caches.can_join(self.cache))

    @torch.inference_mode()
    def admit(self, rows: list[Row], read: ShareRead | None = None) -> None:
        """As `DecodingBatch.admit`; progress is known after each layer."""
        prompts, of_row = distinct_prompts(rows)
        device = self.split_model.device
        ids_PL, mask_PL, positions_PL = pad_left(prompts, device)
        columns = ids_PL.shape[1] - 1
        # Without padding no mask is passed, and attention need not build one.
        padded = min(map(len, prompts)) <= columns
        cache = self.split_model.new_cache()
        if columns:
            with self.split_model.layers_told(read):
                self.split_model.hidden(
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
    def draw(self) -> tuple[list[int], list[float]]:
        """As `DecodingBatch.draw`."""
        self.columns += 1
        self.length_B = self.length_B + 1
        first_B1 = self.columns - self.length_B[:, None]
        mask_BT: Tensor | None = None
        if bool(first_B1.any()):
            mask_BT = torch.arange(self.columns, device=self.split_model.device) >= first_B1
        hidden_B1D = self.split_model.hidden(
            self.last_B[:, None], mask_BT, self.length_B[:, None] - 1, self.cache
        )
        logits_BV = self.split_model.logits(hidden_B1D[:, -1])
        numbers = [0.0 if row is None else row.next_uniform for row in self.rows]
        uniform_B = torch.from_numpy(np.array(numbers)).to(self.split_model.device)
        self.last_B, log_probs_B = draw(logits_BV, self.sampling, uniform_B)
        return self.last_B.tolist(), log_probs_B.tolist()

    @torch.inference_mode()
    def compact(self) -> None:
        """As `DecodingBatch.compact`."""
        kept = [index for index, row in enumerate(self.rows) if row is not None]
        finished = len(self.rows) - len(kept)
        if not kept:
            self.rows, self.columns = [], 0
        elif finished and finished >= _COMPACT_AT * len(self.rows):
            index_B = torch.tensor(kept, device=self.split_model.device)
            self.rows = [self.rows[index] for index in kept]
            self.last_B, self.length_B = self.last_B[index_B], self.length_B[index_B]
            first = 0
            if caches.can_join(self.cache):
                first = self.columns - int(self.length_B.max())
                self.columns -= first
            caches.select(self.cache, index_B, first)
