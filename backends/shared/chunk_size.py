"""Size of the chunks in which hidden states are projected to logits.

The usual size is measured to be as fast as any larger one, and is used wherever there is room for
it: a resumed run then repeats the same sums. Where little memory is free, smaller chunks are a
little slower and let a run continue that would otherwise have ended.
"""

from __future__ import annotations

MEMORY_SHARE = 1 / 16
"""Share of free memory budgeted for one role's chunk logits; the loss takes several times that."""


def chunk_size(
    requested: int | None, tokens: int, row_bytes: int, usual_bytes: int, free_bytes: int
) -> int:
    """Tokens in a chunk, C; at least 1.

    Args:
        requested: tokens that the caller asks for; None chooses.
        tokens: tokens in all, N.
        row_bytes: bytes of one token's float32 logits.
        usual_bytes: bytes of a usual chunk's logits.
        free_bytes: free memory of the device now; may be negative.

    Raises:
        ValueError: `requested` is below 1.
    """
    if requested is None:
        requested = max(1, min(usual_bytes, int(free_bytes * MEMORY_SHARE)) // row_bytes)
    if requested < 1:
        raise ValueError(f"chunk_tokens must be at least 1, not {requested}")
    return max(1, min(requested, tokens))
