"""The Triton kernel against the plain operations: value, gradient, time and memory.

On logits alone, without the head: [tokens, vocabulary] of student and teacher, as one chunk. On few
rows both are compared with the formula in float64. Without a GPU the kernel runs in Triton's
interpreter, whose time says nothing: only the values are compared.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from benchmarks.gpu.device import Device
from benchmarks.proof.clock import best_seconds
from benchmarks.proof.recorder import Recorder

KINDS = ("forward_kl", "reverse_kl", "jsd")
#: Rows that are compared with float64.
EXACT_ROWS = 16
#: Allowed gaps to float64, relative to the largest entry, by dtype: gradients are stored in it.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}


def measure(record: Recorder) -> None:
    """Every kind on few rows for values, then JSD on whole chunks for time and memory."""
    device = Device()
    if not device.on_gpu:
        # Read when Triton is imported, which is below.
        os.environ["TRITON_INTERPRET"] = "1"
        record.note("without a GPU the kernel runs in Triton's interpreter: no times")
    vocabularies = (600,) if record.tiny else (32_768, 151_936)
    for vocabulary, kind in itertools.product(vocabularies, KINDS):
        compare(record, device, vocabulary, kind)
    if not device.on_gpu:
        return
    lengths = (32,) if record.tiny else (1024, 2048, 4096, 8192)
    for vocabulary, tokens in itertools.product(vocabularies, lengths):
        race(record, device, vocabulary, tokens)


def logits(device: Device, rows: int, vocabulary: int) -> tuple[Any, Any]:
    """Of student and teacher, [rows, vocabulary], as far apart as two roles of one model are."""
    import torch

    torch.manual_seed(0)
    student = torch.randn(rows, vocabulary, device=device.torch, dtype=device.dtype).mul_(3)
    return student, student + torch.randn_like(student).mul_(0.5)


def compare(record: Recorder, device: Device, vocabulary: int, kind: Any) -> None:
    """Value and gradient of kernel and plain operations against float64."""
    import torch

    from backends.pytorch.triton_divergence import divergence_in_place
    from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence

    spec = DivergenceSpec(kind)
    dtype = str(device.dtype).removeprefix("torch.")
    names = {"case": f"{EXACT_ROWS} × {vocabulary:,}, {kind}, {dtype}"}
    student, teacher = logits(device, EXACT_ROWS, vocabulary)
    exact = compute_divergence(student.double(), teacher.double(), spec, torch)
    found: dict[str, tuple[Any, Any]] = {}
    plain = compute_divergence(student, teacher, spec, torch)
    found["plain"] = plain.value_N, plain.gradient_NV.to(device.dtype)
    with record.attempt(**names, form="gap to float64") as row:
        own = student.clone()
        found["triton"] = divergence_in_place(own, teacher, spec, True)[0], own
        gaps: dict[str, float] = {}
        for form, (value_N, gradient_NV) in found.items():
            gaps[f"{form}_value"] = gap(value_N, exact.value_N)
            gaps[f"{form}_gradient"] = gap(gradient_NV, exact.gradient_NV)
        row.update({f"{name}_gap": value for name, value in gaps.items()})
        record.check(
            f"kernel and plain operations agree with float64: {names['case']}",
            max(gaps.values()) <= TOLERANCE[dtype], largest_gap=max(gaps.values()),
        )  # fmt: skip


def gap(found: Any, exact: Any) -> float:
    """Largest difference, relative to the largest entry."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


def race(record: Recorder, device: Device, vocabulary: int, tokens: int) -> None:
    """Time and memory of value and gradient of JSD on one chunk."""
    import torch

    from backends.pytorch.triton_divergence import divergence_in_place
    from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence

    spec = DivergenceSpec("jsd")
    student, teacher = logits(device, tokens, vocabulary)
    own = torch.empty_like(student)

    def triton() -> None:
        own.copy_(student)
        divergence_in_place(own, teacher, spec, True)

    def plain() -> None:
        own.copy_(compute_divergence(student, teacher, spec, torch).gradient_NV)

    last: dict[str, Any] = {}
    moved = 4 * student.nelement() * student.element_size()
    for form, work in {"triton": triton, "plain": plain}.items():
        with record.attempt(case=f"{tokens:,} × {vocabulary:,}, jsd", form=form) as row:
            device.begin_peak()
            seconds = best_seconds(work, device.wait, repeats=5)
            row.update(time_ms=1000 * seconds, peak_gib=device.peak_gib())
            # Both rows read once, the gradient copied and written: nobody can move less.
            row["least_traffic_gbs"] = moved / seconds / 1e9
            last[form] = own[-EXACT_ROWS:].double()
        device.empty()
    if len(last) == 2:
        # The last rows, whose offsets are the largest.
        difference = gap(last["triton"], last["plain"])
        record.check(
            f"kernel and plain operations agree on the last of {tokens:,} × {vocabulary:,}",
            difference <= TOLERANCE["bfloat16"], largest_gap=difference,
        )  # fmt: skip
