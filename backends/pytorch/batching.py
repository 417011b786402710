"""Ragged token sequences as rectangles.

Two paddings, for two reasons. Decoding pads on the *left*, so that every row's next token sits in
the same column. Scoring pads on the *right*: a causal model cannot look ahead, so right padding
changes nothing before it, no mask is needed, and attention takes its fastest path.

Padding is filled with id 0 and never looked at, whatever the tokenizer calls its pad token: some
name one that the embedding has no row for, many name the stop token, and neither may matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.shared.micro_batches import require_prompt

_FILLER = 0


@dataclass(frozen=True)
class Padded:
    """Prompts with their completions, B of them holding N completion tokens in all.

    Args:
        ids_BL: prompt and completion, padded on the right.
        predictors_N: flat positions in [B * L] whose hidden states predict the completion tokens.
        targets_N: those tokens.
        counts: completion tokens of each sequence.
    """

    ids_BL: Tensor
    predictors_N: Tensor
    targets_N: Tensor
    counts: tuple[int, ...]


def pad_right(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device) -> Padded:
    """(prompt, completion) pairs in one rectangle; the token at p is predicted at p - 1.

    Raises:
        ModelError: a prompt is empty, so nothing predicts its first completion token.
    """
    length = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids_BL = torch.full((len(pairs), length), _FILLER)
    predictors: list[int] = []
    targets: list[int] = []
    for row, (prompt, completion) in enumerate(pairs):
        require_prompt(prompt)
        ids_BL[row, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
        first = row * length + len(prompt) - 1
        predictors.extend(range(first, first + len(completion)))
        targets.extend(completion)
    return Padded(
        ids_BL=ids_BL.to(device),
        predictors_N=torch.tensor(predictors, dtype=torch.long, device=device),
        targets_N=torch.tensor(targets, dtype=torch.long, device=device),
        counts=tuple(len(completion) for _, completion in pairs),
    )


def pad_left(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts in one rectangle, each ending in the last column.

    Returns:
        Ids, a mask that is True at real tokens, and each token's position in its own prompt,
        all [B, L]; positions under padding are 0.
    """
    length = max(len(prompt) for prompt in prompts)
    ids_BL = torch.full((len(prompts), length), _FILLER)
    mask_BL = torch.zeros((len(prompts), length), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        require_prompt(prompt)
        ids_BL[row, length - len(prompt) :] = torch.tensor(prompt)
        mask_BL[row, length - len(prompt) :] = True
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp_(min=0)
    return ids_BL.to(device), mask_BL.to(device), positions_BL.to(device)
