"""Rates of the device: matrix products and copies, the measure of every other section."""

from __future__ import annotations

from benchmarks.gpu.device import Device, matrix_rate
from benchmarks.proof.clock import best_seconds
from benchmarks.proof.recorder import Recorder


def measure(record: Recorder) -> None:
    """Matrix products of several sizes, a copy, and one element-wise pass."""
    import torch

    device = Device()
    dtype = str(device.dtype).removeprefix("torch.")
    for size in (64, 128) if record.tiny else (2048, 4096, 8192, 16384):
        with record.attempt(what=f"{dtype} matrix product of {size} × {size}") as row:
            row["rate_tflops"] = matrix_rate(device, size) / 1e12
    device.empty()
    count = 10_000 if record.tiny else 2**30
    with record.attempt(what=f"copy of {count:,} numbers") as row:
        source = torch.randn(count, device=device.torch, dtype=device.dtype)
        target = torch.empty_like(source)
        seconds = best_seconds(lambda: target.copy_(source), device.wait, repeats=5)
        row["rate_gbs"] = 2 * count * source.element_size() / seconds / 1e9
    if device.on_gpu:
        free, whole = torch.cuda.mem_get_info()
        record.row(what="memory", free_gib=free / 2**30, whole_gib=whole / 2**30)
        major, minor = torch.cuda.get_device_capability()
        record.note(f"compute capability {major}.{minor}, CUDA {torch.version.cuda}")
