"""Useful arithmetic of a step: what any exact step must compute, recomputation not counted."""

from __future__ import annotations

from collections.abc import Sequence

from opsd_cli.planning.model_shape import Shape


def forward(shape: Shape, lengths: Sequence[int], head_tokens: int) -> float:
    """Floating-point operations of reading sequences.

    Args:
        shape: of the model.
        lengths: tokens of each sequence.
        head_tokens: positions whose logits are computed.
    """
    blocks = shape.layers * sum(a * b for a, b in shape.linear.values())
    # Causal attention: scores and weighted values, over half of a square.
    attention = 2 * shape.layers * shape.heads * shape.head_dim * sum(n * n for n in lengths)
    return 2.0 * blocks * sum(lengths) + attention + head(shape, head_tokens)


def head(shape: Shape, tokens: int) -> float:
    """Of the output projection."""
    return 2.0 * shape.hidden * shape.vocabulary * tokens


def opsd_step(
    shape: Shape, students: Sequence[int], teachers: Sequence[int], completion_tokens: int
) -> float:
    """Of an OPSD step after sampling: both forward passes, and the student's way back.

    The base is frozen, so the way back computes gradients of activations alone: as much as the
    student's forward pass, and twice that of attention. The adapter's own share, about rank over
    hidden size, is left out.
    """
    student = forward(shape, students, completion_tokens)
    attention = forward(shape, students, 0) - 2.0 * shape.layers * sum(students) * sum(
        a * b for a, b in shape.linear.values()
    )
    return forward(shape, teachers, completion_tokens) + 2 * student + attention
