"""The divergence of a chunk in one Triton kernel, for GPUs.

The plain body (`opsd_cli.losses.divergence`) makes some thirty passes over a chunk's logits and
holds five arrays of their size. Here each token's row is read three times and its gradient written
once, over the student's logits, and nothing else of that size exists:

1. the greatest logit and the sum of exponentials of either role;
2. the divergence, both entropies, whether a term was clipped, and the sum that every entry of the
   gradient needs;
3. the gradient.

Whether that is faster is measured: `choose` runs both on the first chunk, compares their gradients,
and takes the faster, or the plain one if they disagree or Triton cannot compile. Top-k stays with
the plain body.
"""

# mypy: allow-untyped-defs
# A kernel's arguments become Triton's own values, for which there are no types.
from __future__ import annotations

import functools
import logging
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence
from opsd_cli.losses.softmax import LOG_FLOOR

Kernel = Literal["plain", "triton"]

_log = logging.getLogger(__name__)
#: The kernel's branch for each kind of divergence; other kinds are left to the plain body.
_KINDS = {"forward_kl": 0, "reverse_kl": 1, "jsd": 2}
_CLIPS = {"none": 0, "pointwise": 1, "token": 2}
_BLOCK = 4096
_SMALLEST = tl.constexpr(1e-37)
_FLOOR = tl.constexpr(float(LOG_FLOOR))


@triton.jit
def _log_probs(logits, top, log_total, inverse_temperature):
    """Log-probabilities, none below the floor, and probabilities."""
    log_p = (logits - top) * inverse_temperature - log_total
    return tl.maximum(log_p, _FLOOR), tl.exp(log_p)


@triton.jit
def _terms(log_p, p, log_q, q, beta, KIND: tl.constexpr):
    """Each entry's term of the divergence, and its derivative in log p."""
    if KIND == 0:
        return q * (log_q - log_p), -q
    elif KIND == 1:
        terms = p * (log_p - log_q)
        return terms, p + terms
    else:
        log_m = tl.log(tl.maximum(p + beta * (q - p), _SMALLEST))
        own = (1.0 - beta) * p * (log_p - log_m)
        return beta * q * (log_q - log_m) + own, own


@triton.jit
def _kernel(
    student_ptr,
    teacher_ptr,
    out_ptr,
    student_stride,
    teacher_stride,
    rows,
    vocabulary,
    beta,
    inverse_temperature,
    clip_at,
    softcap,
    KIND: tl.constexpr,
    CLIP: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    student_ptr += row.to(tl.int64) * student_stride
    teacher_ptr += row.to(tl.int64) * teacher_stride
    offsets = tl.arange(0, BLOCK)
    nothing = float("-inf")

    s_top = tl.full((), nothing, tl.float32)
    t_top = tl.full((), nothing, tl.float32)
    s_total = tl.zeros((), tl.float32)
    t_total = tl.zeros((), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        inside = start + offsets < vocabulary
        s = tl.load(student_ptr + start + offsets, mask=inside, other=nothing).to(tl.float32)
        t = tl.load(teacher_ptr + start + offsets, mask=inside, other=nothing).to(tl.float32)
        s_new = tl.maximum(s_top, tl.max(s, 0))
        t_new = tl.maximum(t_top, tl.max(t, 0))
        # Before any mass is seen the old sum is 0, and -inf less -inf must not make it NaN.
        s_scale = tl.where(s_top == nothing, 0.0, tl.exp((s_top - s_new) * inverse_temperature))
        t_scale = tl.where(t_top == nothing, 0.0, tl.exp((t_top - t_new) * inverse_temperature))
        s_mass = tl.where(s == nothing, 0.0, tl.exp((s - s_new) * inverse_temperature))
        t_mass = tl.where(t == nothing, 0.0, tl.exp((t - t_new) * inverse_temperature))
        s_total = s_total * s_scale + tl.sum(s_mass, 0)
        t_total = t_total * t_scale + tl.sum(t_mass, 0)
        s_top = s_new
        t_top = t_new
    s_log = tl.log(s_total)
    t_log = tl.log(t_total)

    value = tl.zeros((), tl.float32)
    slope = tl.zeros((), tl.float32)
    clipped = tl.zeros((), tl.float32)
    s_entropy = tl.zeros((), tl.float32)
    t_entropy = tl.zeros((), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        inside = start + offsets < vocabulary
        s = tl.load(student_ptr + start + offsets, mask=inside, other=nothing).to(tl.float32)
        t = tl.load(teacher_ptr + start + offsets, mask=inside, other=nothing).to(tl.float32)
        log_p, p = _log_probs(s, s_top, s_log, inverse_temperature)
        log_q, q = _log_probs(t, t_top, t_log, inverse_temperature)
        terms, g = _terms(log_p, p, log_q, q, beta, KIND)
        s_entropy -= tl.sum(p * log_p, 0)
        t_entropy -= tl.sum(q * log_q, 0)
        if CLIP == 1:
            above = (terms > clip_at) & inside
            clipped = tl.maximum(clipped, tl.max(above.to(tl.float32), 0))
            g = tl.where(above, 0.0, g)
            terms = tl.where(above, clip_at, terms)
        value += tl.sum(terms, 0)
        slope += tl.sum(g, 0)

    scale = inverse_temperature
    if CLIP == 2:  # noqa: SIM102 - known when it is compiled, which the second is not
        if value > clip_at:
            value = value * 0.0 + clip_at
            clipped = clipped + 1.0
            scale = scale * 0.0
    tl.store(out_ptr + row, value)
    tl.store(out_ptr + rows + row, clipped)
    tl.store(out_ptr + 2 * rows + row, s_entropy)
    tl.store(out_ptr + 3 * rows + row, t_entropy)

    if GRADIENT:
        for start in range(0, vocabulary, BLOCK):
            inside = start + offsets < vocabulary
            s = tl.load(student_ptr + start + offsets, mask=inside, other=nothing).to(tl.float32)
            t = tl.load(teacher_ptr + start + offsets, mask=inside, other=nothing).to(tl.float32)
            log_p, p = _log_probs(s, s_top, s_log, inverse_temperature)
            log_q, q = _log_probs(t, t_top, t_log, inverse_temperature)
            terms, g = _terms(log_p, p, log_q, q, beta, KIND)
            if CLIP == 1:
                g = tl.where(terms > clip_at, 0.0, g)
            gradient = (g - p * slope) * scale
            if SOFTCAPPED:
                capped = s / softcap
                gradient = gradient * (1.0 - capped * capped)
            tl.store(
                student_ptr + start + offsets,
                gradient.to(student_ptr.dtype.element_ty),
                mask=inside,
            )


def supports(spec: DivergenceSpec) -> bool:
    """True if the kernel computes this divergence: a kind that it knows, over whole rows."""
    return spec.top_k is None and spec.effective_kind in _KINDS


def divergence_in_place(
    student_NV: Tensor,
    teacher_NV: Tensor,
    spec: DivergenceSpec,
    gradient: bool,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, clipping, student's and teacher's entropy of each token, float32 [N] each.

    Args:
        student_NV: logits, before temperature and after any soft cap, rows contiguous. With
            `gradient` they are replaced by the derivative of the value with respect to the logits
            before the cap, as `Head.overwrite` leaves it.
        teacher_NV: the same shape; left as they are.
        spec: such that `supports` is true.

    Raises:
        ValueError: the kernel does not support `spec`, or the shapes differ.
    """
    if not supports(spec) or student_NV.shape != teacher_NV.shape:
        raise ValueError("the kernel compares whole rows of one shape")
    rows, vocabulary = student_NV.shape
    out = torch.empty(4, rows, dtype=torch.float32, device=student_NV.device)
    if rows:
        _kernel[(rows,)](
            student_NV, teacher_NV, out, student_NV.stride(0), teacher_NV.stride(0),
            rows, vocabulary, spec.beta, 1.0 / spec.temperature, spec.clip_at, softcap or 1.0,
            KIND=_KINDS[spec.effective_kind], CLIP=_CLIPS[spec.clip],
            SOFTCAPPED=softcap is not None, GRADIENT=gradient, BLOCK=_BLOCK, num_warps=8,
        )  # fmt: skip
    value_N, clipped_N, student_entropy_N, teacher_entropy_N = out
    return value_N, clipped_N, student_entropy_N, teacher_entropy_N


def choose(student_NV: Tensor, teacher_NV: Tensor, spec: DivergenceSpec) -> Kernel:
    """The faster computation on this device for logits of this shape and dtype; measured once."""
    if not supports(spec):
        return "plain"
    return _chosen(
        student_NV.device, student_NV.dtype, student_NV.shape[1], spec,
        _Chunk(student_NV, teacher_NV),
    )  # fmt: skip


class _Chunk:
    """Logits to measure with; all are equal as a cache key, which is their shape alone."""

    def __init__(self, student_NV: Tensor, teacher_NV: Tensor) -> None:
        self.student_NV, self.teacher_NV = student_NV, teacher_NV

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Chunk)

    def __hash__(self) -> int:
        return 0


@functools.cache
def _chosen(
    device: torch.device, dtype: torch.dtype, vocabulary: int, spec: DivergenceSpec, chunk: _Chunk
) -> Kernel:
    plain_NV, fused_NV = chunk.student_NV.clone(), chunk.student_NV.clone()

    def plain() -> None:
        found = compute_divergence(plain_NV, chunk.teacher_NV, spec, torch)
        plain_NV.copy_(found.gradient_NV)

    def fused() -> None:
        divergence_in_place(fused_NV, chunk.teacher_NV, spec, gradient=True)

    try:
        plain()
        fused()
        agree = bool(
            (plain_NV.float() - fused_NV.float()).abs().max()
            <= 0.01 * plain_NV.float().abs().max() + 1e-6
        )
        faster = agree and _seconds(fused, device) < _seconds(plain, device)
    except Exception as error:
        _log.warning("the Triton kernel cannot be used here: %s", error)
        return "plain"
    finally:
        chunk.student_NV = chunk.teacher_NV = chunk.student_NV[:0]
    if not agree:
        _log.warning("the Triton kernel disagrees with the plain computation, which is used")
    return "triton" if faster else "plain"


def _seconds(work, device: torch.device) -> float:
    """Seconds of the fastest of three runs, on the device's own clock."""
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        times.append(start.elapsed_time(end))
    return min(times) / 1000
