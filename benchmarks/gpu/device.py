"""The device of the GPU kit: a CUDA GPU, or for tiny shapes the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measuring import forget_peak, new_peak_mb, resident_mb


def describe(tiny: bool) -> str:
    """One line; the first GPU that is visible, or for tiny shapes the CPU.

    Raises:
        SystemExit: there is no GPU, and the shapes are not tiny.
    """
    try:
        import torch
    except ImportError:
        raise SystemExit("the GPU kit needs torch, which is not installed") from None
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    if not tiny:
        raise SystemExit(f"PyTorch {torch.__version__} sees no GPU here; --tiny runs on the CPU")
    return "the CPU, without a GPU"


class Device:
    """Where a section computes.

    Attributes:
        torch: torch's device.
        on_gpu: True on CUDA.
        dtype: of weights and activations: bfloat16 on a GPU, float32 on a CPU.
    """

    def __init__(self) -> None:
        import torch

        self.on_gpu = torch.cuda.is_available()
        self.torch = torch.device("cuda" if self.on_gpu else "cpu")
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self._before = 0.0

    @property
    def wait(self) -> Callable[[], object]:
        """Returns when the device has finished."""
        import torch

        return torch.cuda.synchronize if self.on_gpu else lambda: None

    @property
    def free(self) -> int:
        """Bytes that can be allocated now."""
        from backends.pytorch.device_memory import free

        return free(self.torch)

    def empty(self) -> None:
        """Give back what the allocator keeps for reuse."""
        import gc

        import torch

        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def begin_peak(self) -> None:
        """Begin a new peak, which is counted from what is in use now."""
        import torch

        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._before = 1e6 * resident_mb()
            forget_peak()

    def peak_gib(self, above: bool = True) -> float:
        """GiB at the peak since `begin_peak`, above what was in use then or in all.

        Without a GPU it is the process's resident memory, on Linux alone.
        """
        import torch

        peak = torch.cuda.max_memory_allocated() if self.on_gpu else 1e6 * new_peak_mb()
        return float(peak - (self._before if above else 0.0)) / 2**30


def matrix_rate(device: Device, size: int) -> float:
    """Floating-point operations a second of a square matrix product, in the device's dtype."""
    import torch

    from benchmarks.proof.clock import best_seconds

    a, b = (torch.randn(size, size, device=device.torch, dtype=device.dtype) for _ in range(2))
    out = torch.empty_like(a)

    def work() -> Any:
        for _ in range(4):
            torch.mm(a, b, out=out)

    return 4 * 2.0 * size**3 / best_seconds(work, device.wait, repeats=5, warm=2)
