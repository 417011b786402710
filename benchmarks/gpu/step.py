"""An OPSD step at the shape of a real model: time by phase, rate, memory, and the dense loss.

Random weights and random completions of 1,024 tokens: the time of a step does not depend on what
they say. The student's prompt has 256 tokens, the teacher's 1,280. Whether activations are
recomputed, and how many tokens a micro-batch has, follows from the memory plan and what is free.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any
from unittest import mock

from benchmarks.gpu.device import Device, matrix_rate
from benchmarks.gpu.models import Work, random_ids, random_policy
from benchmarks.proof.clock import Phases, best_seconds
from benchmarks.proof.flops import opsd_step
from benchmarks.proof.recorder import Recorder, Skip

#: Share of the free memory that a plan may take.
FILL = 0.85
TINY = Work("tiny", rows=2, student=8, teacher=24, completion=16, micro_batch=64)
TEACHER = "teacher"
#: Where the phases are timed: methods of the policy. The way back is the rest of a pass. The
#: teacher's sequences are read by the same method as the student's.
PHASES = {
    "_teacher_hidden": TEACHER,
    "_completion_hidden_states": "student",
    "_divergence_pass": "backward",
}


def small(record: Recorder) -> None:
    """At the shape of Qwen3-1.7B, with rollouts as long as the completions."""
    measure(record, Work("Qwen3-1.7B", 32, 256, 1280, 1024, 16_384), sampled=1024)


def large(record: Recorder) -> None:
    """At the shape of Qwen3-8B, with a quarter of the rollouts' tokens."""
    measure(record, Work("Qwen3-8B", 32, 256, 1280, 1024, 16_384), sampled=256)


def measure(record: Recorder, work: Work, sampled: int) -> None:
    """A step as it is, its phases, the dense loss, and rollouts of so many tokens."""
    device = Device()
    if record.tiny:
        work, sampled = TINY, 8
    rate = matrix_rate(device, 128 if record.tiny else 8192)
    device.empty()
    work, config = fitted(device, work)
    device.begin_peak()
    policy = random_policy(device, work, config)
    record.note(policy.description)
    record.note(
        f"{work.rows} completions of {work.completion:,} tokens, prompts of {work.student} and "
        f"{work.teacher:,}, LoRA of rank {config.lora.rank}; micro-batches of "
        f"{work.micro_batch:,} tokens, activations "
        f"{'recomputed' if config.train.gradient_checkpointing else 'kept'}"
    )
    batch = work.batch()
    ours(record, device, work, policy, batch, rate)
    with record.attempt(form="with the dense loss") as row, dense_loss():
        row.update(timed_step(device, work, policy, batch, rate, repeats=1))
    device.empty()
    sample(record, device, work, policy, sampled)


def fitted(device: Device, work: Work) -> tuple[Work, Any]:
    """The work and its config so that the plan fits what is free.

    Raises:
        Skip: not even the smallest does.
    """
    room = FILL * device.free
    least = 0.0
    while work.rows:
        for micro_batch in (work.micro_batch, work.micro_batch // 4):
            for recomputed in (False, True):
                tried = dataclasses.replace(work, micro_batch=micro_batch)
                config = tried.config(gradient_checkpointing=recomputed)
                least = tried.planned(device, config).peak
                if least <= room:
                    return tried, config
        work = dataclasses.replace(work, rows=work.rows // 4)
    raise Skip(f"{work.model} needs {least / 2**30:.0f} GiB, and {room / 2**30:.0f} may be taken")


def ours(
    record: Recorder, device: Device, work: Work, policy: Any, batch: Any, rate: float
) -> None:
    """The step as it is, and once more with a wait at the end of every phase."""
    with record.attempt(form="ours") as row:
        row.update(timed_step(device, work, policy, batch, rate, repeats=2))
        planned = work.planned(device, policy.config).peak / 2**30
        # Including the weights and the first step's buffers, unlike the peak above them.
        row.update(planned_gib=planned, measured_gib=policy.memory().peak / 2**30)
    with record.attempt(form="ours, by phase") as row, phases_of(policy, device) as phases:
        seconds = best_seconds(
            lambda: (policy.accumulate(batch), phases.wrapped("update", policy.apply)(1e-6)),
            device.wait, repeats=1, warm=0,
        )  # fmt: skip
        row["step_s"] = seconds
        row.update({f"{name}_s": seconds for name, seconds in phases.seconds.items()})


def timed_step(
    device: Device, work: Work, policy: Any, batch: Any, rate: float, repeats: int
) -> dict[str, float]:
    """Seconds, rates and peak of a step after sampling; one more warms up."""

    def step() -> None:
        policy.accumulate(batch)
        policy.apply(1e-6)

    step()
    device.begin_peak()
    seconds = best_seconds(step, device.wait, repeats, warm=0)
    student, teacher = work.student + work.completion, work.teacher + work.completion
    useful = opsd_step(
        work.shape, [student] * work.rows, [teacher] * work.rows, work.rows * work.completion
    )
    return {
        "step_s": seconds,
        "tokens_per_second": work.rows * (student + teacher) / seconds,
        "useful_tflops": useful / seconds / 1e12,
        "of_matrix_rate_share": useful / seconds / rate,
        "above_weights_gib": device.peak_gib(),
    }


class phases_of:
    """Times the phases of a policy's passes while it is open."""

    def __init__(self, policy: Any, device: Device) -> None:
        self._policy, self._phases = policy, Phases(device.wait)

    def __enter__(self) -> Phases:
        from backends.pytorch import policy as module

        for name, phase in PHASES.items():
            method = getattr(self._policy, name)
            setattr(self._policy, name, self._phases.wrapped(phase, method, not_in=TEACHER))
        self._loss = mock.patch.object(
            module, "chunked_divergence", self._phases.wrapped("loss", module.chunked_divergence)
        )
        self._loss.start()
        return self._phases

    def __exit__(self, *_: object) -> None:
        self._loss.stop()
        for name in PHASES:
            delattr(self._policy, name)


def dense_loss() -> Any:
    """Puts the formula written with autograd, over all tokens of a micro-batch at once, into the
    policy's place of the chunked loss."""
    from backends.pytorch import policy as module
    from benchmarks.loss_memory import dense_divergence

    def dense(
        student_ND: Any, teacher_ND: Any, head: Any, weights_N: Any, spec: Any, **_: Any
    ) -> Any:
        loss = dense_divergence(student_ND, teacher_ND, head.weight_VD, weights_N, spec.kind)
        nothing_N = weights_N.new_zeros(len(weights_N))
        return types.SimpleNamespace(
            loss=loss, value_N=nothing_N, clipped_N=nothing_N,
            student_entropy_N=nothing_N, teacher_entropy_N=nothing_N,
        )  # fmt: skip

    return mock.patch.object(module, "chunked_divergence", dense)


def sample(record: Recorder, device: Device, work: Work, policy: Any, tokens: int) -> None:
    """Rollouts by the built-in engine with the adapter attached."""
    from backends.interface import RolloutRequest, Sampling

    vocabulary = work.shape.vocabulary
    requests = [
        RolloutRequest(str(row), 0, random_ids(vocabulary, work.student, row), row)
        for row in range(work.rows)
    ]
    with record.attempt(form=f"rollouts of {tokens:,} tokens, adapter attached") as row:
        device.begin_peak()

        def draw() -> None:
            drawn = list(policy.generate(requests, Sampling(1.1, 0.95, 20, max_new_tokens=tokens)))
            assert sum(len(rollout.completion_ids) for rollout in drawn) == work.rows * tokens

        seconds = best_seconds(draw, device.wait, repeats=1, warm=0)
        row.update(step_s=seconds, tokens_per_second=work.rows * tokens / seconds,
                   above_weights_gib=device.peak_gib())  # fmt: skip
