"""Rollouts: a decoding loop of our own over transformers' models and caches.

transformers' `generate` gives no log-probabilities of the filtered distribution without keeping
every step's logits, draws from one random stream for the whole batch, and returns a batch only
when its longest member is done. Here each rollout consumes its own uniform numbers, so what it
becomes does not depend on its company; it is handed over in the step that ends it; and once a
quarter of the rows have ended, the cache is copied without them.

Requests are decoded in batches of like prompt length, longest first. Prompts that occur more than
once in a batch (several samples of one question) are read once, and the cache's row is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from backends.interface import Rollout, RolloutRequest, Sampling, uniforms
from backends.pytorch.batching import pad_left
from backends.pytorch.network import Network
from backends.pytorch.sampler import draw
from backends.rollout_rows import Row, begin

_COMPACT_AT = 0.25
"""Share of finished rows at which the batch is copied without them."""


def generate(
    network: Network,
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
    waiting, full = begin(requests, sampling, network.context_limit)
    yield from full
    for start in range(0, len(waiting), batch_size):
        yield from _Batch(network, waiting[start : start + batch_size], sampling, stop_ids).run()


class _Batch:
    """Rows decoded side by side.

    No context manager stays open across a `yield`: what the caller does between two rollouts must
    not run in inference mode.
    """

    def __init__(
        self, network: Network, rows: list[Row], sampling: Sampling, stop_ids: frozenset[int]
    ) -> None:
        self.network = network
        self.sampling = sampling
        self.stop_ids = stop_ids
        #: One entry a row of the tensors; None once that rollout was handed over.
        self.rows: list[Row | None] = list(rows)
        self.cache = network.new_cache()
        self._read_prompts(rows)

    def run(self) -> Iterator[Rollout]:
        step = 0
        while True:
            tokens_B, log_probs_B = self._draw(step)
            yield from self._collect(tokens_B.tolist(), log_probs_B.tolist())
            finished = self.rows.count(None)
            if finished == len(self.rows):
                return
            if finished >= _COMPACT_AT * len(self.rows):
                tokens_B = self._compact(tokens_B)
            self._advance(tokens_B, step)
            step += 1

    @torch.inference_mode()
    def _read_prompts(self, rows: list[Row]) -> None:
        prompts: dict[tuple[int, ...], int] = {}
        of_row = [prompts.setdefault(row.request.prompt_ids, len(prompts)) for row in rows]
        device = self.network.device
        ids_PL, mask_PL, positions_PL = pad_left(list(prompts), device)
        # Without padding no mask is passed, and attention need not build one.
        padded = min(map(len, prompts)) < ids_PL.shape[1]
        hidden_PLD = self.network.hidden(
            ids_PL, mask_PL if padded else None, positions_PL, self.cache
        )
        index_B = torch.tensor(of_row, device=device)
        if len(prompts) < len(rows):
            self.cache.reorder_cache(index_B)
        room = max(row.room for row in rows)
        self.prompt_columns = ids_PL.shape[1]
        self.mask_BT: Tensor | None = None
        if padded:
            ahead_BT = mask_PL.new_ones((len(rows), room))
            self.mask_BT = torch.cat([mask_PL[index_B], ahead_BT], dim=1)
        self.positions_B1 = positions_PL[index_B, -1:] + 1
        draws = np.stack([uniforms(row.request.seed, room) for row in rows])
        self.uniform_BN = torch.from_numpy(draws).to(device)
        self.logits_BV = self.network.logits(hidden_PLD[:, -1])[index_B]

    @torch.inference_mode()
    def _draw(self, step: int) -> tuple[Tensor, Tensor]:
        return draw(self.logits_BV, self.sampling, self.uniform_BN[:, step])

    def _collect(self, tokens: list[int], log_probs: list[float]) -> Iterator[Rollout]:
        for index, row in enumerate(self.rows):
            if row is None:
                continue
            rollout = row.take(tokens[index], log_probs[index], self.stop_ids)
            if rollout is not None:
                self.rows[index] = None
                yield rollout

    @torch.inference_mode()
    def _compact(self, tokens_B: Tensor) -> Tensor:
        kept = [index for index, row in enumerate(self.rows) if row is not None]
        index_B = torch.tensor(kept, device=self.network.device)
        self.rows = [self.rows[index] for index in kept]
        self.cache.reorder_cache(index_B)
        if self.mask_BT is not None:
            self.mask_BT = self.mask_BT[index_B]
        self.positions_B1 = self.positions_B1[index_B]
        self.uniform_BN = self.uniform_BN[index_B]
        return tokens_B[index_B]

    @torch.inference_mode()
    def _advance(self, tokens_B: Tensor, step: int) -> None:
        columns = self.prompt_columns + step + 1
        mask_BT = None if self.mask_BT is None else self.mask_BT[:, :columns]
        hidden_B1D = self.network.hidden(tokens_B[:, None], mask_BT, self.positions_B1, self.cache)
        self.logits_BV = self.network.logits(hidden_B1D[:, -1])
        self.positions_B1 = self.positions_B1 + 1
