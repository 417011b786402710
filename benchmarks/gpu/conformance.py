"""The conformance suite's CUDA part and the kernel's cases; in its tiny form a few on the CPU."""

from __future__ import annotations

from benchmarks.gpu.device import Device
from benchmarks.proof.recorder import Recorder
from benchmarks.proof.suite import run

#: What shows most comes first: the time may end before the suite does.
FULL = (
    "tests/backends/test_losses.py", "tests/backends/test_training.py",
    "tests/backends/test_generation.py", "tests/backends/test_sampler.py",
    "tests/backends/test_policy_gradient.py", "tests/backends/test_state.py",
    "tests/backends/test_teacher_weights.py", "tests/backends/test_meaning.py",
    "tests/backends/test_exchange.py", "tests/backends/test_loading.py",
)  # fmt: skip
TINY = ("tests/backends/test_losses.py", "-k", "cpu and qwen3")
KERNEL = "tests/backends/pytorch/triton_cases.py"


def measure(record: Recorder) -> None:
    """pytest on the device's backend."""
    on_gpu = Device().on_gpu
    if not record.tiny:
        run(record, [KERNEL, *FULL, "-k", "cuda or triton"])
    elif on_gpu:
        run(record, [FULL[0], "-k", "cuda"])
    else:
        run(record, TINY)
