"""Loss batches as flat arrays: what a micro-batch's N tokens are weighted by and compared with.

The tokens of a micro-batch are its items' completions, one after another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    LossBatch,
    PolicyGradientBatch,
    PolicyGradientItem,
    TokenReport,
)
from backends.shared.micro_batches import FILLER_PAIR, PromptAndCompletion
from opsd_cli.losses.array_ops import Array
from opsd_cli.losses.policy_gradient import SurrogateResult, surrogate

EMPTY = np.zeros(0, np.float32)
"""A column of `TokenReport` that a kind of loss does not have."""
NOT_READ = TokenReport(EMPTY, EMPTY, EMPTY, EMPTY)
"""The report of an item without a completion, or of one that another process reads."""


def sequences_of(batch: LossBatch) -> list[list[PromptAndCompletion]]:
    """The sequences of each item: the student's, and the teacher's where there is one."""
    if isinstance(batch, DivergenceBatch):
        return [
            [(item.student_prompt, item.completion), (item.teacher_prompt, item.completion)]
            for item in batch.items
        ]
    return [[(item.prompt, item.completion)] for item in batch.items]


def part_of(batch: LossBatch, rows: Sequence[int]) -> LossBatch:
    """The batch with the items at these rows alone, in their order."""
    if isinstance(batch, DivergenceBatch):
        return dataclasses.replace(batch, items=tuple(batch.items[row] for row in rows))
    return dataclasses.replace(batch, items=tuple(batch.items[row] for row in rows))


def filler_of(batch: LossBatch) -> LossBatch:
    """A batch of the same loss with one item of weight 0, for a pass that only has to be made."""
    prompt, completion = FILLER_PAIR
    if isinstance(batch, DivergenceBatch):
        item = DivergenceItem(prompt, prompt, completion, 0.0)
        return dataclasses.replace(batch, items=(item,))
    zeros = (0.0,) * len(completion)
    filler = PolicyGradientItem(prompt, completion, zeros, 0.0, initial_log_probs=zeros)
    return dataclasses.replace(batch, items=(filler,))


def loss_weights(items: Sequence[DivergenceItem | PolicyGradientItem]) -> np.ndarray:
    """The factor of each token in the loss, float64 [N]."""
    weights = []
    for item in items:
        own = item.token_weights if isinstance(item, DivergenceItem) else ()
        weights.append(item.weight * np.asarray(own or np.ones(len(item.completion))))
    return np.concatenate(weights)


def loss_of(batch: LossBatch, reports: Sequence[TokenReport]) -> float:
    """The weighted sum of a batch's token values, item by item; items that were not read add 0."""
    total = 0.0
    items: Sequence[DivergenceItem | PolicyGradientItem] = batch.items
    for item, report in zip(items, reports, strict=True):
        if len(report.value):
            total += float(loss_weights([item]) @ report.value)
    return total


def surrogate_of(
    batch: PolicyGradientBatch,
    log_p_N: Array,
    weights_N: np.ndarray,
    xp: ModuleType,
    convert: Callable[[np.ndarray], Array],
) -> SurrogateResult:
    """The surrogate of a batch's tokens.

    Args:
        batch: as `PolicyGradientBatch` says, with or without old log-probabilities and penalty.
        log_p_N: the tokens' log-probabilities now.
        weights_N: `loss_weights` of the batch's items.
        xp: the namespace of `log_p_N`.
        convert: makes an array of that namespace from one [N] of NumPy's.
    """

    def column(name: str) -> Array:
        return convert(np.array([x for item in batch.items for x in getattr(item, name)]))

    return surrogate(
        log_p_N,
        column("advantages"),
        xp,
        weights_N=convert(weights_N),
        old_log_p_N=column("old_log_probs") if has_old(batch) else None,
        initial_log_p_N=column("initial_log_probs") if batch.kl else None,
        clip_low=batch.clip_low,
        clip_high=batch.clip_high,
        kl=batch.kl,
    )


def has_old(batch: PolicyGradientBatch) -> bool:
    """True if the batch has old log-probabilities, so that its ratios can be clipped."""
    return bool(batch.items[0].old_log_probs)


def split_report(report: TokenReport, counts: Sequence[int]) -> list[TokenReport]:
    """One report an item, of `counts` tokens each; an empty column is empty in all of them."""
    columns = [
        split_tokens(column, counts) if len(column) else [EMPTY] * len(counts)
        for column in (
            report.value, report.student_entropy, report.teacher_entropy, report.clipped
        )
    ]  # fmt: skip
    return [TokenReport(*parts) for parts in zip(*columns, strict=True)]


def split_tokens(values_N: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """One array an item, of `counts` tokens each."""
    return np.split(values_N, np.cumsum(counts)[:-1])
