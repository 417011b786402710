"""The Mac kit's sections, in nine minutes on a Mac of 32 GB or more."""

from __future__ import annotations

from benchmarks.proof.sections import Kit, Section

MLX = ("mlx", "mlx_lm", "transformers", "numpy")

KIT = Kit(
    name="mac",
    title="opsd on Apple silicon",
    device="benchmarks.mac.device:describe",
    packages=("mlx", "mlx_lm", "transformers", "numpy", "torch"),
    sections=(
        Section(
            "machine", "The device: memory limits, and rates that the others are compared with",
            "benchmarks.mac.machine:measure", 15, ("mlx",),
        ),
        Section(
            "bfloat16", "bfloat16 against float32: loss, gradient, log-probabilities of rollouts",
            "benchmarks.mac.numbers:measure", 30, MLX,
        ),
        Section(
            "resume", "Stop and resume: the same bits",
            "benchmarks.mac.resume:measure", 20, MLX,
        ),
        Section(
            "presets", "The presets' memory plans against measured peaks",
            "benchmarks.mac.presets:measure", 180, MLX,
        ),
        Section(
            "step", "A training step against mlx_lm.lora's",
            "benchmarks.mac.step:measure", 80, MLX,
        ),
        Section(
            "rollouts", "Rollouts against mlx_lm's batch_generate",
            "benchmarks.mac.rollouts:measure", 80, MLX,
        ),
        # The suite compares with PyTorch, which a Mac has from the extra `dev`.
        Section(
            "conformance", "The conformance suite of tests/backends",
            "benchmarks.mac.conformance:measure", 100,
            (*MLX, "torch", "peft", "pytest", "hypothesis"),
        ),
    ),
)  # fmt: skip
