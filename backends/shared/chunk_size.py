"""How many tokens' logits are worked on at once.

A usual size, measured to be as fast as any larger one, wherever there is room for it: a resumed run
then repeats the same sums. Where little memory is free, smaller chunks let a run go on, a little
more slowly, that would otherwise have ended.
"""

from __future__ import annotations

#: Of the free memory, what one role's logits of a chunk may take; the work on them takes several
#: times as much.
SHARE = 16


def chunk_tokens(
    requested: int | None, tokens: int, row_bytes: int, usual_bytes: int, free_bytes: int
) -> int:
    """Tokens in a chunk.

    Args:
        requested: what the caller asks for, if anything.
        tokens: how many there are.
        row_bytes: a token's float32 logits.
        usual_bytes: those of a chunk where memory is plenty.
        free_bytes: of the device, now.

    Raises:
        ValueError: fewer than one are asked for.
    """
    if requested is None:
        requested = max(1, min(usual_bytes, free_bytes // SHARE) // row_bytes)
    if requested < 1:
        raise ValueError(f"chunk_tokens must be at least 1, not {requested}")
    return max(1, min(requested, tokens))
