"""The loss head, forward and backward: ours by either computation, dense, TRL's and Liger's."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import Any

from benchmarks.gpu.device import Device
from benchmarks.loss_memory import Inputs, divergence, made
from benchmarks.proof.clock import best_seconds
from benchmarks.proof.recorder import Recorder, Skip

FORMS = {
    "ours, plain": "plain",
    "ours, triton": "triton",
    "dense": "dense",
    "TRL chunked kernel": "trl",
    "Liger fused linear JSD": "liger",
}
#: (tokens, hidden, vocabulary)
SHAPES = ((1024, 2048, 151_936), (8192, 2048, 151_936), (8192, 4096, 151_936))
TINY_SHAPES = ((16, 32, 600),)
KIND = "jsd"


def measure(record: Recorder) -> None:
    """Every form at every shape, the losses compared with our plain one."""
    device = Device()
    for tokens, hidden, vocabulary in TINY_SHAPES if record.tiny else SHAPES:
        given = argparse.Namespace(
            vocabulary=vocabulary, tokens=tokens, hidden=hidden, threads=1 if record.tiny else 8
        )
        inputs = on_device(made(given), device)
        first: float | None = None
        for name, form in FORMS.items():
            with record.attempt(case=f"{tokens:,} × {hidden:,} × {vocabulary:,}", form=name) as row:
                work = functools.partial(loss_of, inputs, form, device)
                value = work()
                device.begin_peak()
                seconds = best_seconds(work, device.wait, repeats=3, warm=0)
                row.update(time_ms=1000 * seconds, peak_gib=device.peak_gib(), loss=value)
                first = value if first is None else first
                # bfloat16 logits are known to three digits, and each form rounds elsewhere.
                record.check(f"{name} gives our loss", abs(value - first) <= 0.05 * abs(first),
                             loss=value, ours=first)  # fmt: skip
            device.empty()


def on_device(inputs: Inputs, device: Device) -> Inputs:
    """The inputs where they are measured, in the device's dtype."""
    moved = {
        field.name: getattr(inputs, field.name).detach().to(device.torch, device.dtype)
        for field in dataclasses.fields(inputs)
    }
    moved["student_ND"].requires_grad_()
    return Inputs(**moved)


def loss_of(inputs: Inputs, form: str, device: Device) -> float:
    """One forward and backward pass; the loss.

    Raises:
        Skip: the form needs a GPU.
    """
    student_ND = inputs.student_ND.detach().requires_grad_()
    if form in ("plain", "triton"):
        if form == "triton" and not device.on_gpu:
            raise Skip("it needs a GPU")
        loss = chunked(student_ND, inputs, form)
    else:
        given = dataclasses.replace(inputs, student_ND=student_ND)
        loss = divergence(given, KIND, form, None)
    loss.backward()
    assert student_ND.grad is not None
    return float(loss.item())


def chunked(student_ND: Any, inputs: Inputs, kernel: Any) -> Any:
    """Our loss head with a kernel that is named, not chosen."""
    from backends.pytorch.head import Head
    from backends.pytorch.loss_head import chunked_divergence
    from opsd_cli.losses.divergence import DivergenceSpec

    tokens = len(student_ND)
    weights_N = student_ND.detach().new_full((tokens,), 1 / tokens).float()
    return chunked_divergence(
        student_ND, inputs.teacher_ND, Head(inputs.head_VD), weights_N, DivergenceSpec(KIND),
        kernel=kernel,
    ).loss  # fmt: skip
