"""Weights that reduce a batch's per-token losses to one number.

A batch's loss is the sum over completions of weight times the sum over the completion's tokens, so
a reduction is one weight per completion. These are the three that published recipes use:

    tokens      1 / (sum of lengths)             mean over all tokens; the "dapo" loss of
                                                 DAPO (arXiv 2503.14476)
    sequences   1 / (B length)                   mean over a completion's tokens, then over the B
                                                 completions; GRPO's own (arXiv 2402.03300, eq. 3)
    dr_grpo     1 / (B longest)                  a constant, so that no completion's weight depends
                                                 on its length; Dr. GRPO (arXiv 2503.20783)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Reduction = Literal["tokens", "sequences", "dr_grpo"]

GRPO_LOSS_REDUCTIONS: dict[str, Reduction] = {
    "grpo": "sequences",
    "dapo": "tokens",
    "dr_grpo": "dr_grpo",
}
"""The reduction behind each value of `grpo.loss`, whose names are TRL's `loss_type`."""


def completion_weights(
    lengths: Sequence[int], reduction: str, longest: int | None = None
) -> list[float]:
    """The weight in the loss of every token of each completion.

    With `tokens` and `sequences` the weights of all tokens sum to 1, unless a completion is empty:
    `sequences` still counts it among the B. Where every completion is empty, these two give 0.0.

    Args:
        lengths: tokens of each of the B completions.
        reduction: one of `Reduction`.
        longest: greatest length a completion may have, `sampling.max_new_tokens`; read by
            `dr_grpo` alone.

    Returns:
        B weights, in the order of `lengths`.

    Raises:
        ValueError: an unknown reduction, or `dr_grpo` without `longest`.
    """
    count = len(lengths)
    total = sum(lengths)
    if reduction == "dr_grpo":
        if longest is None:
            raise ValueError("reduction 'dr_grpo' divides by the greatest length: give longest")
        return [1 / (longest * count) for _ in lengths]
    if reduction not in ("tokens", "sequences"):
        raise ValueError(f"no reduction {reduction!r}; known: tokens, sequences, dr_grpo")
    if not total:
        return [0.0] * count
    if reduction == "tokens":
        return [1 / total] * count
    return [1 / (max(1, length) * count) for length in lengths]
