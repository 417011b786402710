"""Gradients added up over processes by mx.distributed: `mlx.launch`'s hosts, or a ring of this
machine's processes."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from opsd_cli.errors import TrainingError

#: Numbers of each gradient in one exchange, which bounds the memory beside the gradients.
CHUNK = 1 << 22


class MlxExchange:
    """See `backends.interface.GradientExchange`.

    Args:
        rank, size, host, broadcast: as `backends.interface.ExchangesGradients` takes them.

    Raises:
        TrainingError: the other processes cannot be reached.
    """

    def __init__(self, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]) -> None:
        self._size = size
        if size == 1:
            return
        if "MLX_RANK" not in os.environ:
            _make_ring(rank, broadcast(_addresses(host, size) if rank == 0 else None))
        try:
            self._group = mx.distributed.init(strict=True, backend="any")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"the processes of this run cannot exchange gradients: {error}",
                "check the host file, and that the machines reach each other",
            ) from error

    def sum(self, gradients: Sequence[mx.array], exact: bool) -> mx.array:
        """As `GradientExchange.sum`."""
        if self._size == 1 or not exact:
            total = _in_order(gradients)
            if self._size > 1:
                total = mx.distributed.all_sum(total, group=self._group)
            mx.eval(total)
            return total
        parts = []
        for start in range(0, gradients[0].size, CHUNK):
            own = mx.stack([gradient[start : start + CHUNK] for gradient in gradients])
            rows = mx.distributed.all_gather(own, group=self._group)
            parts.append(_in_order(list(rows)))
            mx.eval(parts[-1])
        return mx.concatenate(parts)

    def close(self) -> None:
        """As `GradientExchange.close`; mx.distributed leaves when the process ends."""


def _in_order(rows: Sequence[mx.array]) -> mx.array:
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


def _addresses(host: str, size: int) -> list[list[str]]:
    """A free port for each process of a ring on this machine, as `mlx.launch` writes them."""
    servers = [socket.create_server((host, 0)) for _ in range(size)]
    addresses = [[f"{host}:{server.getsockname()[1]}"] for server in servers]
    for server in servers:
        server.close()
    return addresses


def _make_ring(rank: int, addresses: list[list[str]]) -> None:
    """Set the variables by which mx.distributed finds the ring."""
    handle, name = tempfile.mkstemp(prefix="opsd-ring-", suffix=".json")
    os.close(handle)
    Path(name).write_text(json.dumps(addresses), encoding="utf-8")
    os.environ["MLX_RANK"], os.environ["MLX_HOSTFILE"] = str(rank), name
