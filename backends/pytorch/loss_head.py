"""From hidden states to per-token losses, without the logits of a batch ever existing.

At a vocabulary of 151,936 the float32 logits of 1,024 tokens take 622 MB; the dense loss holds them
for two roles, several times over, through forward and backward. Here the completion is walked in
chunks of tokens: project both roles' hidden states with the head, take value and gradient from the
shared body (`opsd_cli.losses.divergence`), multiply the gradient back through the head at once, and
drop the chunk. What stays is one row of hidden size per token. That is only possible because the
gradient is known in closed form during the forward pass, and only right because the head is frozen:
LoRA leaves it alone, so nothing asks for its gradient.

Each loss here is one number per token with one known Jacobian row per token, so a single
`autograd.Function` serves all of them, and how tokens are weighted is left to ordinary autograd.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backends.interface import Sampling
from backends.pytorch import sampler
from backends.pytorch.head import Head
from opsd_cli.losses.array_ops import array_ops
from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence
from opsd_cli.losses.softmax import log_softmax

LossKernel = Literal["auto", "plain", "triton"]


@dataclass(frozen=True)
class ChunkedDivergence:
    """Divergence of a completion's tokens.

    Args:
        loss: sum over tokens of weight times divergence; a scalar whose gradient reaches the
            student's hidden states and nothing else.
        value_N: the divergence of each token, nats, float32, detached.
        clipped_N: as `DivergenceResult.clipped_N`.
        student_entropy_N: as `DivergenceResult.student_entropy_N`.
        teacher_entropy_N: the same for the teacher.
    """

    loss: Tensor
    value_N: Tensor
    clipped_N: Tensor
    student_entropy_N: Tensor
    teacher_entropy_N: Tensor


@dataclass(frozen=True)
class TokenLogProbs:
    """Log-probabilities of given tokens.

    Args:
        log_prob_N: log-probability of each target; its gradient reaches the hidden states.
        entropy_N: nats, of the whole next-token distribution, detached.
    """

    log_prob_N: Tensor
    entropy_N: Tensor


def chunked_divergence(
    student_hidden_ND: Tensor,
    teacher_hidden_ND: Tensor,
    head: Head,
    weights_N: Tensor,
    spec: DivergenceSpec,
    chunk_tokens: int | None = None,
    kernel: LossKernel = "auto",
    teacher_head: Head | None = None,
) -> ChunkedDivergence:
    """Weighted divergence of teacher and student over a completion (OPSD, arXiv 2601.18734).

    Args:
        student_hidden_ND: the head's inputs for the student at the N completion positions.
        teacher_hidden_ND: the teacher's, at the same positions; never given a gradient. With a head
            of its own its D may differ.
        head: the output projection.
        weights_N: each token's weight in the loss; 1/N each for the mean over all tokens.
        spec: the divergence.
        chunk_tokens: tokens projected at once, C; None sizes it from the vocabulary, the device and
            its free memory.
        kernel: `plain` is the shared body; `triton` one kernel that does the same on a GPU
            (`backends.pytorch.triton_divergence`); `auto` the faster of the two there, else the
            plain one.
        teacher_head: the teacher's output projection, over the same V ids; None for `head`.

    Raises:
        ValueError: shapes that do not go together.
    """
    if student_hidden_ND.shape != teacher_hidden_ND.shape and teacher_head in (None, head):
        raise ValueError(
            f"student and teacher hidden states must share one shape, not "
            f"{list(student_hidden_ND.shape)} and {list(teacher_hidden_ND.shape)}"
        )
    if len(student_hidden_ND) != len(teacher_hidden_ND):
        raise ValueError(
            f"{len(teacher_hidden_ND)} tokens of the teacher for {len(student_hidden_ND)}"
        )
    if weights_N.shape != student_hidden_ND.shape[:1]:
        raise ValueError(f"{len(weights_N)} weights for {len(student_hidden_ND)} tokens")
    rows = _Rows(student_hidden_ND, outputs=4)
    with torch.no_grad():
        heads = (head, teacher_head or head)
        _walk_divergence(
            rows, student_hidden_ND, teacher_hidden_ND, heads, spec, chunk_tokens, kernel
        )
    value_N, clipped_N, student_entropy_N, teacher_entropy_N = rows.outputs
    attached_N = rows.attach(student_hidden_ND, value_N)
    return ChunkedDivergence(
        loss=(attached_N * weights_N).sum(),
        value_N=value_N,
        clipped_N=clipped_N,
        student_entropy_N=student_entropy_N,
        teacher_entropy_N=teacher_entropy_N,
    )


def _walk_divergence(
    rows: _Rows,
    student_ND: Tensor,
    teacher_ND: Tensor,
    heads: tuple[Head, Head],
    spec: DivergenceSpec,
    chunk_tokens: int | None,
    kernel: LossKernel,
) -> None:
    """Fill `rows` with the divergence of every token, chunk by chunk; student's head first."""
    head, teacher_head = heads
    chunk_tokens = head.chunk_tokens(chunk_tokens, len(student_ND))
    student_buffer, teacher_buffer = head.buffer(chunk_tokens), teacher_head.buffer(chunk_tokens)
    by_kernel: bool | None = None
    for chunk in _slices(len(student_ND), chunk_tokens):
        student_CV = head.logits(student_ND[chunk], student_buffer)
        teacher_CV = teacher_head.logits(teacher_ND[chunk], teacher_buffer)
        if by_kernel is None:
            by_kernel = _takes_kernel(kernel, student_CV, teacher_CV, spec)
        if by_kernel:
            from backends.pytorch.triton_divergence import divergence_in_place

            columns = divergence_in_place(
                student_CV, teacher_CV, spec, rows.wants_gradient, head.softcap
            )
            rows.write(chunk.start, *columns)
        else:
            _compare_in_blocks(head, student_CV, teacher_CV, spec, rows, chunk.start)
        if rows.wants_gradient:
            rows.jacobian_ND[chunk] = head.back(student_CV)


def _takes_kernel(
    kernel: LossKernel, student_CV: Tensor, teacher_CV: Tensor, spec: DivergenceSpec
) -> bool:
    """True if these logits go through the Triton kernel."""
    on_gpu = student_CV.device.type == "cuda"
    if student_CV.dtype != teacher_CV.dtype:  # the kernel reads both as one; a quantised teacher
        return False
    if kernel == "plain" or (kernel == "auto" and not (on_gpu and _has_triton())):
        return False
    from backends.pytorch.triton_divergence import choose, supports

    if kernel == "triton":
        return supports(spec)
    return choose(student_CV, teacher_CV, spec) == "triton"


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _compare_in_blocks(
    head: Head,
    student_CV: Tensor,
    teacher_CV: Tensor,
    spec: DivergenceSpec,
    rows: _Rows,
    start: int,
) -> None:
    """A chunk by the shared body; the student's logits become the gradient if one is wanted."""
    for block in _slices(len(student_CV), head.block_tokens(len(student_CV))):
        result = compute_divergence(student_CV[block], teacher_CV[block], spec, torch)
        rows.write(
            start + block.start,
            result.value_N,
            result.clipped_N,
            result.student_entropy_N,
            result.teacher_entropy_N,
        )
        if rows.wants_gradient:
            head.overwrite(student_CV[block], result.gradient_NV)


def chunked_log_probs(
    hidden_ND: Tensor,
    head: Head,
    targets_N: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> TokenLogProbs:
    """Log-probabilities of given tokens, for scoring and for the policy gradient.

    Args:
        hidden_ND: hidden states at the positions that predict the targets.
        head: the output projection.
        targets_N: token ids, each below the head's vocabulary.
        temperature: divides the logits.
        chunk_tokens: as in `chunked_divergence`.

    Raises:
        ValueError: shapes that do not go together.
    """
    if targets_N.shape != hidden_ND.shape[:1]:
        raise ValueError(f"{len(targets_N)} targets for {len(hidden_ND)} tokens")
    ops = array_ops(torch)
    rows = _Rows(hidden_ND, outputs=2)
    with torch.no_grad():
        chunk_tokens = head.chunk_tokens(chunk_tokens, len(hidden_ND))
        buffer = head.buffer(chunk_tokens)
        for chunk in _slices(len(hidden_ND), chunk_tokens):
            logits_CV = head.logits(hidden_ND[chunk], buffer)
            targets_C1 = targets_N[chunk, None]
            for block in _slices(len(logits_CV), head.block_tokens(len(logits_CV))):
                log_p, p = log_softmax(logits_CV[block], temperature, ops)
                target_B1 = targets_C1[block]
                rows.write(
                    chunk.start + block.start,
                    log_p.gather(-1, target_B1)[:, 0],
                    -ops.row_dot(p, log_p)[:, 0],
                )
                if rows.wants_gradient:
                    # d log p_target / dz = (1[target] - p) / temperature
                    p *= -1.0 / temperature
                    p.scatter_add_(-1, target_B1, torch.full_like(p[:, :1], 1.0 / temperature))
                    head.overwrite(logits_CV[block], p)
            if rows.wants_gradient:
                rows.jacobian_ND[chunk] = head.back(logits_CV)
    log_prob_N, entropy_N = rows.outputs
    return TokenLogProbs(rows.attach(hidden_ND, log_prob_N), entropy_N)


@torch.no_grad()
def filtered_log_probs(
    hidden_ND: Tensor, head: Head, targets_N: Tensor, sampling: Sampling
) -> Tensor:
    """Log-probabilities of given tokens under the filtered distribution, float32 [N], no gradient.

    Args:
        hidden_ND, head, targets_N: as in `chunked_log_probs`.
        sampling: at a temperature above 0; a token that a filter excludes gets -inf.
    """
    found_N = torch.empty(len(hidden_ND), device=hidden_ND.device)
    chunk_tokens = head.chunk_tokens(None, len(hidden_ND))
    buffer = head.buffer(chunk_tokens)
    for chunk in _slices(len(hidden_ND), chunk_tokens):
        logits_CV = head.logits(hidden_ND[chunk], buffer)
        targets_C, found_C = targets_N[chunk], found_N[chunk]
        for block in _slices(len(logits_CV), head.block_tokens(len(logits_CV))):
            found_C[block] = sampler.log_probs(logits_CV[block].float(), sampling, targets_C[block])
    return found_N


class _Rows:
    """What is kept of each token: a few numbers, and its Jacobian row if one is wanted.

    A gradient is wanted if autograd records and the hidden states require one.
    """

    def __init__(self, hidden_ND: Tensor, outputs: int) -> None:
        dtype = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        self.outputs = [
            torch.empty(len(hidden_ND), dtype=dtype, device=hidden_ND.device)
            for _ in range(outputs)
        ]
        self.wants_gradient = torch.is_grad_enabled() and hidden_ND.requires_grad
        with torch.no_grad():
            self.jacobian_ND = torch.empty_like(hidden_ND if self.wants_gradient else hidden_ND[:0])

    def write(self, start: int, *columns: Tensor) -> None:
        """Write one number per token for each output, from token `start` on."""
        for output_N, column in zip(self.outputs, columns, strict=True):
            output_N[start : start + len(column)] = column

    def attach(self, hidden_ND: Tensor, value_N: Tensor) -> Tensor:
        """`value_N` with its gradient to `hidden_ND` recorded."""
        if not self.wants_gradient:
            return value_N
        return _KnownJacobian.apply(hidden_ND, value_N, self.jacobian_ND)


class _KnownJacobian(torch.autograd.Function):
    """One number per token, whose derivative with respect to that token's row is given."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, value_N: Tensor, jacobian_ND: Tensor) -> Tensor:
        ctx.save_for_backward(jacobian_ND)
        return value_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, None, None]:
        (jacobian_ND,) = ctx.saved_tensors
        return (jacobian_ND * upstream_N[:, None]).to(jacobian_ND.dtype), None, None


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
