"""Gradients added up over processes by torch.distributed: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from opsd_cli.errors import TrainingError

#: The first collective of a sharded base waits until the slowest process has read its files; the
#: others begin when every process has computed its share. A process that ends is noticed before.
TIMEOUT = timedelta(minutes=10)
#: Numbers of each gradient in one exchange, which bounds the memory beside the gradients.
CHUNK = 1 << 22


class TorchExchange:
    """See `backends.interface.GradientExchange`.

    Args:
        rank, size, host, broadcast: as `backends.interface.ExchangesGradients` takes them.
        device: of the gradients.

    Raises:
        TrainingError: the other processes cannot be reached.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        host: str,
        broadcast: Callable[[Any], Any],
        device: torch.device,
    ) -> None:
        self._size = size
        if size == 1:
            return
        with _explained():
            if rank == 0:
                store = dist.TCPStore(host, 0, size, True, TIMEOUT, wait_for_workers=False)
                broadcast(store.port)
            else:
                store = dist.TCPStore(host, broadcast(None), size, False, TIMEOUT)
            engine = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                engine, store=store, rank=rank, world_size=size, timeout=TIMEOUT
            )

    def sum(self, gradients: Sequence[Tensor], exact: bool) -> Tensor:
        """As `GradientExchange.sum`."""
        if self._size == 1 or not exact:
            total = _in_order(gradients)
            if self._size > 1:
                with _explained():
                    dist.all_reduce(total)
            return total
        total = torch.empty_like(gradients[0])
        with _explained():
            for start in range(0, len(total), CHUNK):
                part = slice(start, start + CHUNK)
                total[part] = self._exact([gradient[part] for gradient in gradients])
        return total

    def _exact(self, rows: Sequence[Tensor]) -> Tensor:
        """The sum of every process's rows, in order.

        Each process gets one slice of all rows, adds it up, and hands it to the others, so no row
        crosses more than once: with one row each, as many bytes as a ring's all-reduce.
        """
        length, each = len(rows[0]), -(-len(rows[0]) // self._size)
        own = torch.zeros(len(rows), self._size * each, device=rows[0].device)
        for place, row in enumerate(rows):
            own[place, :length] = row
        # [rows, size, each] -> [size, rows, each]: slice s goes to process s.
        sent = own.view(len(rows), self._size, each).transpose(0, 1).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        slice_sum = _in_order(received.view(-1, each).unbind())
        slices = [torch.empty_like(slice_sum) for _ in range(self._size)]
        dist.all_gather(slices, slice_sum)
        return torch.cat(slices)[:length]

    def close(self) -> None:
        """As `GradientExchange.close`."""
        if self._size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _in_order(rows: Sequence[Tensor]) -> Tensor:
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns an error of torch.distributed into a `TrainingError`."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"the processes of this run cannot exchange gradients: {reason}",
            "one has ended, or the network between them is down; `--resume` goes on",
        ) from error
