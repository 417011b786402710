"""Prompts of unequal length as one rectangle for decoding.

Decoding pads on the *left*, so that every row's next token is in the same column. (Scoring pads on
the right: `backends.shared.micro_batches.pad_right`.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.shared.micro_batches import FILLER, require_prompt


def pad_left(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts in one rectangle, each ending in the last column.

    Returns:
        Ids, a mask that is True at real tokens, and each token's position in its own prompt,
        all [B, L]; positions under padding are 0.

    Raises:
        ModelError: a prompt has no tokens.
    """
    length = max(len(prompt) for prompt in prompts)
    ids_BL = torch.full((len(prompts), length), FILLER)
    mask_BL = torch.zeros((len(prompts), length), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        require_prompt(prompt)
        ids_BL[row, length - len(prompt) :] = torch.tensor(prompt)
        mask_BL[row, length - len(prompt) :] = True
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp_(min=0)
    return ids_BL.to(device), mask_BL.to(device), positions_BL.to(device)
