"""The memory plan against the peak of a step: rollouts, loss, gradient and update."""

from __future__ import annotations

from benchmarks.gpu.device import Device
from benchmarks.gpu.models import Work, random_ids, random_policy
from benchmarks.proof.recorder import Recorder, Skip

#: Tokens of a micro-batch, and whether activations are recomputed.
CASES = ((4096, False), (4096, True), (16_384, True))


def measure(record: Recorder) -> None:
    """One step of each case at the shape of Qwen3-1.7B, or of the tiny model."""
    device = Device()
    if not device.on_gpu:
        record.note("on a CPU the peak is the process's and includes its libraries: "
                    "benchmarks/memory_plan.py measures there")  # fmt: skip
    for micro_batch, recomputed in CASES[:1] if record.tiny else CASES:
        work = Work("Qwen3-1.7B", 16, 128, 640, 384, micro_batch)
        if record.tiny:
            work = Work("tiny", 4, 8, 24, 16, 64)
        kept = "recomputed" if recomputed else "kept"
        with record.attempt(case=f"{micro_batch:,} tokens, activations {kept}") as row:
            config = work.config(gradient_checkpointing=recomputed)
            planned = work.planned(device, config).peak
            if planned > device.free:
                raise Skip(f"the plan says {planned / 2**30:.1f} GiB, which are not free")
            measured = peak_of_a_step(device, work, config)
            row.update(planned_gib=planned / 2**30, measured_gib=measured / 2**30)
            row["planned_over_measured"] = planned / measured
            if device.on_gpu:
                ratio = planned / measured
                record.check("plan and peak differ by a fifth at most", 0.8 <= ratio <= 1.25,
                             ratio=ratio)  # fmt: skip
        device.empty()


def peak_of_a_step(device: Device, work: Work, config: object) -> int:
    """Bytes at the peak since before the model was made."""
    from backends.interface import RolloutRequest, Sampling

    policy = random_policy(device, work, config)
    requests = [
        RolloutRequest(str(row), 0, random_ids(work.shape.vocabulary, work.student, row), row)
        for row in range(work.rows)
    ]
    list(policy.generate(requests, Sampling(max_new_tokens=work.completion)))
    policy.accumulate(work.batch())
    policy.apply(1e-6)
    return int(policy.memory().peak)
