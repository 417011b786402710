"""Memory of the device: what is free, what is in use, and out-of-memory errors explained.

On a GPU torch's allocator keeps count. On a CPU it is the process's resident set, which the system
limits; the kernel keeps its highest value for the whole life of the process, so it counts as this
model's peak only if it rose since the model was loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import torch

from backends.interface import Memory
from opsd_cli.errors import OpsdError
from opsd_cli.machine import available_memory, peak_resident


class MemoryMeter:
    """Bytes in use: now, and at most since this was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._process = psutil.Process()
        self._highest = 0
        self._highest_before = peak_resident()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Memory:
        if self.device.type == "cuda":
            return Memory(
                torch.cuda.memory_allocated(self.device),
                torch.cuda.max_memory_allocated(self.device),
            )
        current = self._process.memory_info().rss
        risen = peak_resident()
        self._highest = max(self._highest, current, risen if risen > self._highest_before else 0)
        return Memory(current, self._highest)


def free(device: torch.device) -> int:
    """Bytes that can be allocated now; what torch's allocator holds unused counts as free."""
    if device.type != "cuda":
        return available_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


@contextlib.contextmanager
def reporting_out_of_memory(
    error_class: type[OpsdError], message: str, hint: str
) -> Iterator[None]:
    """Translate torch's out-of-memory errors, which are pages long, into `error_class`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise error_class(message, hint) from error
    except RuntimeError as error:
        # The CPU allocator has no error class of its own.
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise error_class(message, hint) from error
