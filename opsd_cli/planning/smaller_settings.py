"""The settings nearest to a run's with which its memory plan fits a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from opsd_cli.config.schema import Config


def nearest_that_fits(
    config: Config, limit: int, peak: Callable[[Config], int]
) -> dict[str, Any] | None:
    """Settings that bring the peak within the limit, those that affect results least first.

    Recomputed activations and smaller batches do not change the training result; a lower rank and
    shorter completions do, and are tried last. A setting that does not lower the peak is kept.

    Args:
        config: the run that does not fit.
        limit: bytes.
        peak: gives a config's peak in bytes.

    Returns:
        New values by config key; None if no combination fits, since the model is too large.
    """
    from opsd_cli.config.resolve import assigned

    changed: dict[str, Any] = {}
    while peak(config) > limit:
        for key, reduced in _SMALLER:
            value = reduced(config)
            if value is not None and peak(tried := assigned(config, key, value)) < peak(config):
                config = tried
                changed[key] = value
                break
        else:
            return None
    return changed


def _half(number: int, minimum: int) -> int | None:
    return None if number <= minimum else max(minimum, math.ceil(number / 2))


_SMALLER: tuple[tuple[str, Callable[[Config], Any]], ...] = (
    ("train.micro_batch_tokens", lambda c: _half(c.train.micro_batch_tokens, 2048)),
    ("train.gradient_checkpointing", lambda c: None if c.train.gradient_checkpointing else True),
    ("train.micro_batch_tokens", lambda c: _half(c.train.micro_batch_tokens, 256)),
    ("rollouts.batch_size", lambda c: _half(c.rollouts.batch_size, 1)),
    ("lora.rank", lambda c: _half(c.lora.rank, 8)),
    ("sampling.max_new_tokens", lambda c: _half(c.sampling.max_new_tokens, 64)),
)
