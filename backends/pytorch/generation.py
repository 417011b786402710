"""Rows decoded side by side on PyTorch, over transformers' models and caches.

transformers' `generate` gives no log-probabilities of the filtered distribution without keeping
every step's logits, samples from one random stream for the whole batch, and returns a batch only
when its longest member is done; `backends.shared.decoding` therefore has a loop of its own, and
this module the tensors. Once a quarter of the rows have finished, the cache is copied without
them. A prompt that several samples share is read once, and the cache's row is copied; so is a long
beginning that all prompts share, such as worked examples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from backends.interface import Sampling
from backends.pytorch import cache as caches
from backends.pytorch.padding import pad_left
from backends.pytorch.sampler import draw
from backends.pytorch.split_model import SplitModel
from backends.shared.decoding import Row, ShareRead, distinct_prompts
from backends.shared.micro_batches import FILLER

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
    def admit(self, rows: list[Row], read: ShareRead | None = None, shared: int = 0) -> None:
        """As `DecodingBatch.admit`; progress is known after each layer."""
        prompts, of_row = distinct_prompts(rows)
        device = self.split_model.device
        columns = max(map(len, prompts)) - 1
        cache = self.split_model.new_cache()
        with self.split_model.layers_told(read):
            if shared and caches.can_join(cache):
                self._read_after(prompts, shared, cache)
            elif columns:
                self._read(prompts, cache)
        if len(prompts) < len(rows):
            caches.select(cache, torch.tensor(of_row, device=device))
        last_B = torch.tensor([row.request.prompt_ids[-1] for row in rows], device=device)
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

    def _read(self, prompts: list[tuple[int, ...]], cache: Cache) -> None:
        """Read whole prompts, all but their last tokens."""
        ids_PL, mask_PL, positions_PL = pad_left(prompts, self.split_model.device)
        # Without padding no mask is passed, and attention need not build one.
        mask = mask_PL[:, :-1] if min(map(len, prompts)) < ids_PL.shape[1] else None
        self.split_model.hidden(ids_PL[:, :-1], mask, positions_PL[:, :-1], cache)

    def _read_after(self, prompts: list[tuple[int, ...]], shared: int, cache: Cache) -> None:
        """Read the shared beginning once, and after it what is each prompt's own.

        The rest is padded on the right, where nothing attends to the padding, and the columns are
        then rolled so that each row ends in the last one.
        """
        device = self.split_model.device
        self.split_model.hidden(torch.tensor([prompts[0][:shared]], device=device), cache=cache)
        caches.select(cache, torch.zeros(len(prompts), dtype=torch.long, device=device))
        rest = [prompt[shared:-1] for prompt in prompts]
        longest = max(map(len, rest))
        if not longest:
            return
        padding = [longest - len(own) for own in rest]
        ids = [[*own, *[FILLER] * pad] for own, pad in zip(rest, padding, strict=True)]
        positions_L = torch.arange(shared, shared + longest, device=device)
        self.split_model.hidden(
            torch.tensor(ids, device=device), None, positions_L.expand(len(ids), -1), cache
        )
        if any(padding):
            caches.roll(cache, torch.tensor(padding, device=device))

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
