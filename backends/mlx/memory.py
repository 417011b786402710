"""How much memory MLX may hold, and how much it does.

On Metal, weights and caches that are wired down are not paged out between steps; the limit is what
the device itself recommends. The allocator keeps freed buffers for reuse, and since lengths vary
from step to step it would keep more and more, so it is emptied when it holds too much: at every
step would cost time, never would cost memory.
"""

from __future__ import annotations

import mlx.core as mx

from backends.interface import Memory

_CACHE_LIMIT = 2 * 2**30
"""Bytes of freed buffers that may wait for reuse between micro-batches."""


def set_limits() -> None:
    """Wire as much as the device recommends; nothing to do on a CPU."""
    if mx.default_device() == mx.cpu:
        return
    recommended = mx.device_info().get("max_recommended_working_set_size")
    if recommended:
        mx.set_wired_limit(int(recommended))


def tidy() -> None:
    """Free the allocator's spare buffers where they have become many."""
    if mx.get_cache_memory() > _CACHE_LIMIT:
        mx.clear_cache()


class Meter:
    """Bytes that MLX has allocated, now and at the highest since this was made."""

    def __init__(self) -> None:
        mx.reset_peak_memory()

    def read(self) -> Memory:
        current = int(mx.get_active_memory())
        return Memory(current, max(current, int(mx.get_peak_memory())))
