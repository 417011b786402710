"""The conformance suite's MLX part; in its tiny form one test."""

from __future__ import annotations

from benchmarks.proof.recorder import Recorder
from benchmarks.proof.suite import run

FULL = (
    "tests/backends/mlx", "tests/backends/test_losses.py", "tests/backends/test_training.py",
    "tests/backends/test_generation.py", "tests/backends/test_sampler.py",
    "tests/backends/test_policy_gradient.py", "tests/backends/test_state.py",
    "tests/backends/test_teacher_weights.py", "tests/backends/test_exchange.py",
)  # fmt: skip
TINY = ("tests/backends/test_losses.py", "-k", "mlx and qwen3 and loss_and_gradient")


def measure(record: Recorder) -> None:
    """pytest on MLX, whose tests compile on Metal and not on a CPU."""
    if record.tiny:
        run(record, TINY, MLX_DISABLE_COMPILE="1")
    else:
        run(record, [*FULL, "-m", "mlx"])
