"""The GPU kit's sections. Seconds are for one H200; they add up to less than nine minutes."""

from __future__ import annotations

from benchmarks.proof.sections import Kit, Section

#: What loading a policy on PyTorch needs.
POLICY = ("torch", "transformers", "peft", "pydantic", "psutil")

KIT = Kit(
    name="gpu",
    title="opsd on a CUDA GPU",
    device="benchmarks.gpu.device:describe",
    packages=(
        "torch", "triton", "transformers", "peft", "accelerate", "numpy", "trl", "liger_kernel",
    ),
    sections=(
        Section(
            "machine", "The device: rates that the others are compared with",
            "benchmarks.gpu.machine:measure", 10, ("torch",),
        ),
        Section(
            "kernel", "The Triton kernel against the plain operations, on a chunk's logits",
            "benchmarks.gpu.kernel:measure", 45, ("torch", "triton", "numpy"),
        ),
        Section(
            "resume", "Stop and resume: the same bits",
            "benchmarks.gpu.resume:measure", 20, POLICY,
        ),
        Section(
            "step_1.7b", "An OPSD step at the shape of Qwen3-1.7B",
            "benchmarks.gpu.step:small", 90, POLICY,
        ),
        Section(
            "step_8b", "An OPSD step at the shape of Qwen3-8B",
            "benchmarks.gpu.step:large", 90, POLICY,
        ),
        Section(
            "loss", "The loss head against its dense form, TRL's and Liger's",
            "benchmarks.gpu.loss:measure", 40, ("torch", "numpy", "psutil"),
        ),
        Section(
            "rollouts", "Rollouts against transformers' generate",
            "benchmarks.gpu.rollouts:measure", 70, POLICY,
        ),
        Section(
            "peers", "A training step against TRL's trainers",
            "benchmarks.gpu.peers:measure", 50, POLICY,
        ),
        Section(
            "plan", "The memory plan of --dry-run against measured peaks",
            "benchmarks.gpu.plan:measure", 30, POLICY,
        ),
        Section(
            "conformance", "The conformance suite of tests/backends",
            "benchmarks.gpu.conformance:measure", 65,
            (*POLICY, "pytest", "hypothesis", "ruamel.yaml"),
        ),
    ),
)  # fmt: skip
