"""How the processes that `mlx.launch` started find rank 0: by mx.distributed itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np

from backends.mlx.exchange import joined_by_launcher
from backends.shared.placement import Placement

#: Bytes of what rank 0 publishes, padded.
LENGTH = 512


class Meeting:
    """The group of the processes; see `backends.pytorch.meeting.Meeting`.

    Args:
        where: this process.

    Raises:
        TrainingError: the processes do not reach each other.
    """

    def __init__(self, where: Placement) -> None:
        self._group = joined_by_launcher()

    @property
    def host(self) -> str:
        """The address of rank 0 in the host file: the first of the first host."""
        if coordinator := os.environ.get("MLX_JACCL_COORDINATOR"):
            return coordinator.rpartition(":")[0]
        addresses = json.loads(Path(os.environ["MLX_HOSTFILE"]).read_text(encoding="utf-8"))
        return str(addresses[0][0]).rpartition(":")[0]

    def publish(self, text: str) -> None:
        """Tell the others; only rank 0 does, once."""
        self._exchanged(text)

    def published(self) -> str:
        """What rank 0 publishes, once it has."""
        return self._exchanged("")

    def _exchanged(self, text: str) -> str:
        """The sum over all processes, of which only rank 0 has bytes other than 0."""
        own = mx.array([*text.encode().ljust(LENGTH, b"\0")], mx.int32)
        total = mx.distributed.all_sum(own, group=self._group, stream=mx.cpu)
        return bytes(np.array(total, np.uint8)).rstrip(b"\0").decode()
