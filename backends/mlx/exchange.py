"""Gradients added up over processes by mx.distributed: `mlx.launch`'s hosts, or a ring of this
machine's processes."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from opsd_cli.errors import TrainingError

#: Numbers of each gradient in one exchange, which bounds the memory beside the gradients.
CHUNK = 1 << 22
#: The processes that this one has joined.
_group: mx.distributed.Group | None = None


class MlxExchange:
    """See `backends.interface.GradientExchange`.

    Args:
        rank, size, host, broadcast: as `backends.interface.ExchangesGradients` takes them.

    Raises:
        TrainingError: the other processes cannot be reached.
    """

    def __init__(self, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]) -> None:
        self._size = size
        if size > 1:
            self._group = (
                joined_by_launcher()
                if "MLX_RANK" in os.environ
                else _joined_ring(rank, size, host, broadcast)
            )

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


def joined_by_launcher() -> mx.distributed.Group:
    """The processes that `mlx.launch` started.

    Raises:
        TrainingError: they do not reach each other.
    """
    global _group
    if _group is None:
        try:
            _group = mx.distributed.init(strict=True, backend="any")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"the processes of this run cannot exchange gradients: {error}",
                "check the host file, and that the machines reach each other",
            ) from error
    return _group


def _joined_ring(
    rank: int, size: int, host: str, broadcast: Callable[[Any], Any]
) -> mx.distributed.Group:
    """A ring of this machine's processes. MLX lets a process join one alone.

    Raises:
        TrainingError: this process or another is in a ring of other processes.
    """
    began = _group is not None
    addresses = broadcast(None if began else _addresses(host, size))
    if (addresses is None) != began or (_group is not None and _group.size() != size):
        raise TrainingError(
            "MLX lets a process train with the same others alone", "start a process anew"
        )
    if _group is None:
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="opsd-ring-") as file:
            json.dump(addresses, file)
            file.flush()
            variables = {"MLX_RANK": str(rank), "MLX_HOSTFILE": file.name}
            os.environ.update(variables)
            try:
                return joined_by_launcher()
            finally:  # so that nobody takes this for a process of mlx.launch
                for name in variables:
                    del os.environ[name]
    return _group


def _addresses(host: str, size: int) -> list[list[str]]:
    """A free port for each process, as `mlx.launch` writes them."""
    servers = [socket.create_server((host, 0)) for _ in range(size)]
    addresses = [[f"{host}:{server.getsockname()[1]}"] for server in servers]
    for server in servers:
        server.close()
    return addresses
