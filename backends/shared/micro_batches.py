"""What every backend has to know about sequences of token ids before it makes arrays of them."""

from __future__ import annotations

from collections.abc import Sequence

from opsd_cli.errors import ModelError

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""A prompt and its completion."""


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped by similar length, so that rows times the longest stays within the budget.

    Longest first, so that what does not fit in memory shows at once. A sequence longer than the
    budget makes a group of its own: it cannot be cut.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def require_prompt(prompt: Sequence[int]) -> None:
    """Raise `ModelError` for a prompt without tokens."""
    if not prompt:
        raise ModelError(
            "a prompt has no tokens, so the model cannot say what comes next",
            "check prompts.student.template and the tokenizer's chat template",
        )
