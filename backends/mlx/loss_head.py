"""From hidden states to the loss, chunk by chunk, on MLX.

MLX computes nothing until asked, so a loop over chunks alone saves no memory: every chunk's logits
stay alive in the graph of the next. Each chunk is therefore evaluated before the next is begun.
What is kept of a token is its value and the gradient with respect to its hidden state, [D] numbers
instead of [V]; the adapter's gradient is then that of sum(weight * h . dh), with dh held constant.
The divergence is the shared body of `opsd_cli.losses.divergence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from backends.interface import Sampling
from backends.mlx import device_memory, sampler
from backends.mlx.split_model import Head
from backends.mlx.traits import MLX
from backends.shared.chunk_size import chunk_size
from opsd_cli.losses.array_ops import array_ops
from opsd_cli.losses.divergence import DivergenceSpec, compute_divergence
from opsd_cli.losses.softmax import log_softmax

_CHUNK_BYTES = MLX.memory.chunk_bytes
"""Bytes of one role's float32 logits in a chunk; seven such arrays are alive at once."""


@dataclass(frozen=True)
class TokenColumns:
    """Numbers of N tokens.

    Args:
        columns: float32 [N] each: for a divergence value, student's and teacher's entropy, clipped;
            for log-probabilities those and the entropy.
        jacobian_ND: d value / d hidden state, the value being the first column; None if no
            gradient was wanted.
    """

    columns: tuple[np.ndarray, ...]
    jacobian_ND: mx.array | None


def chunked_divergence(
    head: Head,
    student_ND: mx.array,
    teacher_ND: mx.array,
    spec: DivergenceSpec,
    gradient: bool,
    chunk_tokens: int | None = None,
    teacher_head: Head | None = None,
) -> TokenColumns:
    """Divergence of each token: value, student's and teacher's entropy, clipped.

    Args:
        head: the output projection.
        student_ND: its inputs for the student at the N completion positions.
        teacher_ND: the same for the teacher; with a head of its own its D may differ.
        spec: the divergence.
        gradient: whether to compute the Jacobian.
        chunk_tokens: tokens projected at once, C; None sizes it from vocabulary and free memory.
        teacher_head: the teacher's output projection, over the same V ids; None for `head`.
    """
    of_teacher = teacher_head or head

    def chunk_columns(
        student_CD: mx.array, teacher_CD: mx.array
    ) -> tuple[list[mx.array], mx.array]:
        logits_CV = head.logits(student_CD)
        found = compute_divergence(logits_CV, of_teacher.logits(teacher_CD), spec, mx)
        columns = [
            found.value_N, found.student_entropy_N, found.teacher_entropy_N, found.clipped_N,
        ]  # fmt: skip
        if not gradient:
            return columns, mx.zeros((0,))
        return columns, head.back(found.gradient_NV, logits_CV)

    return _walk(head, (student_ND, teacher_ND), chunk_columns, gradient, chunk_tokens)


def chunked_log_probs(
    head: Head,
    hidden_ND: mx.array,
    targets_N: mx.array,
    temperature: float,
    gradient: bool,
    chunk_tokens: int | None = None,
) -> TokenColumns:
    """Log-probability of each target, and the entropy of its distribution, in nats.

    Args:
        head: the output projection.
        hidden_ND: hidden states at the positions that predict the targets.
        targets_N: token ids.
        temperature: divides the logits.
        gradient, chunk_tokens: as in `chunked_divergence`.
    """
    ops = array_ops(mx)

    def chunk_columns(hidden_CD: mx.array, targets_C: mx.array) -> tuple[list[mx.array], mx.array]:
        logits_CV = head.logits(hidden_CD)
        log_p, p = log_softmax(logits_CV, temperature, ops)
        target_C1 = targets_C[:, None]
        columns = [
            mx.take_along_axis(log_p, target_C1, axis=-1)[:, 0],
            -ops.row_dot(p, log_p)[:, 0],
        ]
        if not gradient:
            return columns, mx.zeros((0,))
        # d log p_target / dz = (1[target] - p) / temperature
        mine = mx.take_along_axis(p, target_C1, axis=-1)
        gradient_CV = ops.put_(-p, target_C1, 1.0 - mine) / temperature
        return columns, head.back(gradient_CV, logits_CV)

    return _walk(head, (hidden_ND, targets_N), chunk_columns, gradient, chunk_tokens)


def filtered_log_probs(
    head: Head, hidden_ND: mx.array, targets_N: mx.array, sampling: Sampling
) -> np.ndarray:
    """Log-probabilities of given tokens under the filtered distribution, float32 [N].

    Args:
        head, hidden_ND, targets_N: as in `chunked_log_probs`.
        sampling: at a temperature above 0; a token that a filter excludes gets -inf.
    """

    def chunk_columns(hidden_CD: mx.array, targets_C: mx.array) -> tuple[list[mx.array], mx.array]:
        logits_CV = head.logits(hidden_CD).astype(mx.float32)
        return [sampler.log_probs(logits_CV, sampling, targets_C)], mx.zeros((0,))

    return _walk(head, (hidden_ND, targets_N), chunk_columns, False, None).columns[0]


def _walk(
    head: Head,
    inputs: tuple[mx.array, ...],
    chunk_columns: Callable[..., tuple[list[mx.array], mx.array]],
    gradient: bool,
    chunk_tokens: int | None,
) -> TokenColumns:
    """The columns of all tokens, from a function of one chunk's inputs: columns and Jacobian."""
    total = len(inputs[0])
    chunk_tokens = chunk_size(
        chunk_tokens, total, 4 * head.vocabulary, _CHUNK_BYTES, device_memory.free()
    )
    columns: list[list[np.ndarray]] = []
    jacobian: list[mx.array] = []
    for start in range(0, total, chunk_tokens):
        found, back = chunk_columns(*(x[start : start + chunk_tokens] for x in inputs))
        mx.eval(*found, back)
        columns.append([np.array(column, np.float32) for column in found])
        if gradient:
            jacobian.append(back)
    whole = tuple(np.concatenate(parts) for parts in zip(*columns, strict=True))
    return TokenColumns(whole, mx.concatenate(jacobian) if gradient else None)
