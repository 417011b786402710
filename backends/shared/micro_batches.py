"""Sequences of token ids grouped into micro-batches and padded into rectangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opsd_cli.errors import ModelError

PromptAndCompletion = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and of its completion."""

FILLER = 0
"""Token id of padding. No result depends on it: some tokenizers' pad token has no row in the
embedding, and many use the stop token."""
FILLER_PAIR: PromptAndCompletion = ((FILLER,), (FILLER,))
"""What a forward pass reads that is made only because other processes make one."""


@dataclass(frozen=True)
class Padded:
    """B prompts with their completions, padded on the right, N completion tokens in all.

    A causal model cannot look ahead, so padding on the right changes nothing before it: no mask is
    needed, and attention takes its fastest path.

    Attributes:
        ids_BL: prompt and completion of each row, int64.
        predictors_N: flat positions in [B * L] whose hidden states predict the completion tokens,
            int64.
        targets_N: those tokens, int64.
        counts: completion tokens of each row.
    """

    ids_BL: np.ndarray
    predictors_N: np.ndarray
    targets_N: np.ndarray
    counts: tuple[int, ...]


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped by similar length, so that rows times the longest stays within the budget.

    Longest first, so that what does not fit in memory fails at once. A sequence longer than the
    budget makes a group of its own: it cannot be cut.

    Args:
        lengths: tokens of each sequence.
        budget: tokens of a group, padding included.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def batched(items: Sequence[Sequence[PromptAndCompletion]], budget: int) -> list[list[int]]:
    """Indices of items with a completion in micro-batches, grouped by each one's longest sequence.

    Args:
        items: the sequences of each, which have the same completion.
        budget: as `micro_batches` has it.
    """
    filled = [index for index, pairs in enumerate(items) if pairs[0][1]]
    lengths = [max(len(p) + len(c) for p, c in items[index]) for index in filled]
    return [[filled[index] for index in group] for group in micro_batches(lengths, budget)]


def require_readable(pairs: Sequence[PromptAndCompletion], context_limit: int | None) -> None:
    """Check that a model can read every pair; arguments and errors as `pad_right` has them."""
    for prompt, _ in pairs:
        require_prompt(prompt)
    longest = max((len(prompt) + len(completion) for prompt, completion in pairs), default=0)
    if context_limit is not None and longest > context_limit:
        raise ModelError(
            f"a sequence of {longest} tokens is longer than the model's context of {context_limit}",
            "set prompts.teacher.max_tokens, or lower sampling.max_new_tokens",
        )


def pad_right(
    pairs: Sequence[PromptAndCompletion],
    context_limit: int | None = None,
    multiple_of: int = 1,
) -> Padded:
    """(prompt, completion) pairs in one rectangle; the token at p is predicted at p - 1.

    Args:
        pairs: token ids, at least one pair.
        context_limit: the most positions of a sequence; None is no limit.
        multiple_of: L is rounded up to a multiple of this.

    Raises:
        ModelError: a prompt is empty, so nothing predicts its first completion token; or a
            sequence is longer than `context_limit`.
    """
    require_readable(pairs, context_limit)
    longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
    length = -(-longest // multiple_of) * multiple_of
    ids_BL = np.full((len(pairs), length), FILLER, np.int64)
    predictors: list[int] = []
    targets: list[int] = []
    for row, (prompt, completion) in enumerate(pairs):
        ids_BL[row, : len(prompt) + len(completion)] = [*prompt, *completion]
        first = row * length + len(prompt) - 1
        predictors.extend(range(first, first + len(completion)))
        targets.extend(completion)
    return Padded(
        ids_BL=ids_BL,
        predictors_N=np.array(predictors, np.int64),
        targets_N=np.array(targets, np.int64),
        counts=tuple(len(completion) for _, completion in pairs),
    )


def require_prompt(prompt: Sequence[int]) -> None:
    """Raise `ModelError` for a prompt without tokens."""
    if not prompt:
        raise ModelError(
            "a prompt has no tokens, so the model cannot say what comes next",
            "check prompts.student.template and the tokenizer's chat template",
        )
