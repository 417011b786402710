"""Memory of the device: MLX's limits, what is free, and what is in use.

On Metal, weights and caches that are wired down are not paged out between steps; the limit is what
the device itself recommends, as mlx-lm's own trainer sets it. The allocator keeps freed buffers for
reuse, and since lengths vary from step to step it would keep more and more; it is limited to an
eighth of that, which costs less time than emptying it at every step.
"""

from __future__ import annotations

import mlx.core as mx

from backends.interface import Memory
from opsd_cli.machine import available_memory

_CACHE_LIMIT = 2 * 2**30
"""Most bytes of freed buffers that may wait for reuse."""


def set_limits() -> None:
    """Bound the allocator's spare buffers; on a GPU, wire as much as the device recommends."""
    recommended = 0
    if mx.default_device() != mx.cpu:
        recommended = int(mx.device_info().get("max_recommended_working_set_size", 0))
    mx.set_cache_limit(min(_CACHE_LIMIT, recommended // 8) if recommended else _CACHE_LIMIT)
    if recommended:
        mx.set_wired_limit(recommended)


def free() -> int:
    """Bytes that can be allocated now; on a GPU, within what the device recommends."""
    available = available_memory()
    if mx.default_device() == mx.cpu:
        return available
    recommended = int(mx.device_info().get("max_recommended_working_set_size", available))
    return min(available, recommended - int(mx.get_active_memory()))


class MemoryMeter:
    """Bytes that MLX has allocated: now, and at most since this was made."""

    def __init__(self) -> None:
        mx.reset_peak_memory()

    def read(self) -> Memory:
        current = int(mx.get_active_memory())
        return Memory(current, max(current, int(mx.get_peak_memory())))
