"""Loss batches of items of ragged lengths, for tests of several ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    PolicyGradientBatch,
    PolicyGradientItem,
)
from opsd_cli.losses.divergence import DivergenceSpec


def tokens(seed: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, 24, count).tolist())


def divergence_batch(items: int, teacher: Any = "initial", again: bool = False) -> DivergenceBatch:
    """Items of ragged lengths; every seventh has no completion."""
    return DivergenceBatch(
        tuple(
            DivergenceItem(
                tokens(i, 2 + i % 5), tokens(100 + i, 3 + i % 4),
                tokens(200 + i, 0 if i % 7 == 6 else 1 + i % 6), 0.1,
            )
            for i in range(items)
        ),
        DivergenceSpec("jsd", beta=0.5),
        teacher,
        again,
    )  # fmt: skip


def gradient_batch(items: int) -> PolicyGradientBatch:
    return PolicyGradientBatch(
        tuple(
            PolicyGradientItem(
                tokens(i, 3), tokens(200 + i, 1 + i % 5), (0.5 - i % 2,) * (1 + i % 5), 0.2
            )
            for i in range(items)
        )
    )
