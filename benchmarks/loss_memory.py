"""Memory and CPU time of the divergence loss, token-chunked against dense, on one input.

    python benchmarks/loss_memory.py
    python benchmarks/loss_memory.py --form mlx --tokens 512 --kind jsd
    python benchmarks/loss_memory.py --form chunked --form trl --form liger --rounds 3

Measures forward and backward, from two sets of hidden states and a frozen head to the student's
hidden gradient, in float32 at the vocabulary of Qwen3. Every figure comes from a process of its
own, because a process's peak never goes down: the peak resident size during the loss, minus the
resident size once the inputs exist, and the CPU time of all threads. The dense form is the formula
written with autograd; it needs about 8 GB. The form `mlx` is the MLX backend's, whose
own allocator says how much was alive; on a Linux CPU it is slow. `trl` is TRL 1.16's chunked kernel
(`DistillationTrainer`'s) and `liger` Liger 0.8.5's fused linear JSD, uncompiled; both need an
environment that has them. With several rounds the forms take turns and medians are printed, with
the least in brackets. `--gradients` compares every form's gradient with the dense one's in float64
instead, on few tokens and in one process.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import parser, peak_mb, resident_mb, take_turns
from benchmarks.tables import Table

KINDS = ("forward_kl", "reverse_kl", "jsd")
FORMS = ("chunked", "dense", "mlx", "trl", "liger")
NAMES = {
    "chunked": "ours",
    "dense": "dense",
    "mlx": "ours on MLX",
    "trl": "TRL chunked kernel",
    "liger": "Liger fused linear JSD",
}
#: The divergences as `beta` of the peers.
BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}


def main() -> None:
    options = parser(__doc__, rounds=1, saves=True)
    options.add_argument("--vocabulary", type=int, default=151_936)
    options.add_argument("--tokens", type=int, default=1024)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--chunk-tokens", type=int, default=None)
    options.add_argument(
        "--kind", choices=KINDS, action="append", help="repeatable; all by default"
    )
    options.add_argument(
        "--form", choices=FORMS, action="append", help="repeatable; PyTorch's two by default"
    )
    options.add_argument("--gradients", action="store_true", help="compare gradients instead")
    options.add_argument("--measure", action="store_true", help="measure one, in this process")
    args = options.parse_args()
    if args.gradients:
        compare_gradients(args)
        return
    if args.measure:
        print(json.dumps(measure(args)))
        return
    print(
        f"V = {args.vocabulary:,}, {args.tokens:,} tokens, hidden {args.hidden}, float32, "
        f"{args.threads} threads; forward + backward; peak memory above the inputs\n"
    )
    table = Table("loss_head", "s")
    for kind in args.kind or KINDS:
        forms = {NAMES[form]: command(args, kind, form) for form in args.form or FORMS[:2]}
        found = take_turns(forms, args.rounds)
        table.add(kind.replace("_", " ").replace("kl", "KL").replace("jsd", "JSD"), found)
        for form, rows in found.items():
            print(f"{kind}, {form}: losses {[row['loss'] for row in rows]}", file=sys.stderr)
    if args.save:
        table.save()


def compare_gradients(args: argparse.Namespace) -> None:
    """Print each form's largest gradient error, relative to the largest entry of float64's."""
    args.tokens = min(args.tokens, 64)
    for kind in args.kind or KINDS:
        inputs = made(args)
        double = (tensor.double() for tensor in (inputs.teacher_ND, inputs.head_VD))
        exact = Inputs(inputs.student_ND.detach().double(), *double)
        dense = gradient(exact, kind, "dense")
        for form in args.form or ("chunked",):
            found = gradient(inputs, kind, form)
            gap = float((found - dense).abs().max() / dense.abs().max())
            print(f"{kind:<12}{form:<9}largest difference {gap:.1e} of the largest entry")


def gradient(inputs: Inputs, kind: str, form: str) -> Tensor:
    student_ND = inputs.student_ND.detach().clone().requires_grad_()
    divergence(replace(inputs, student_ND=student_ND), kind, form, None).backward()
    assert student_ND.grad is not None
    return student_ND.grad


def command(args: argparse.Namespace, kind: str, form: str) -> list[str]:
    """Command that measures one form in a process of its own."""
    parts = [sys.executable, __file__, "--measure", "--kind", kind, "--form", form]
    for name in ("vocabulary", "tokens", "hidden", "threads", "chunk_tokens"):
        if getattr(args, name) is not None:
            parts += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return parts


@dataclass(frozen=True)
class Inputs:
    """Hidden states of both roles, [tokens, hidden], and the frozen head, [vocabulary, hidden]."""

    student_ND: Tensor
    teacher_ND: Tensor
    head_VD: Tensor


def made(args: argparse.Namespace) -> Inputs:
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    # Filled in place, so that making the inputs leaves no higher peak behind.
    head_VD = torch.empty(args.vocabulary, args.hidden).normal_(std=args.hidden**-0.5)
    student_ND = torch.empty(args.tokens, args.hidden).normal_(std=3.0)
    teacher_ND = torch.empty(args.tokens, args.hidden).normal_().add_(student_ND)
    return Inputs(student_ND.requires_grad_(), teacher_ND, head_VD)


def divergence(inputs: Inputs, kind: str, form: str, chunk_tokens: int | None) -> Tensor:
    """The mean divergence over tokens, by one of the forms."""
    import torch

    student_ND, teacher_ND, head_VD = inputs.student_ND, inputs.teacher_ND, inputs.head_VD
    tokens = len(student_ND)
    if form == "trl":
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        mask = torch.ones(1, tokens, device=student_ND.device)
        return _chunked_divergence_loss(
            student_ND[None], teacher_ND[None], head_VD, head_VD, mask, BETA[kind]
        )[0]
    if form == "liger":
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

        labels = torch.zeros(tokens, dtype=torch.long, device=student_ND.device)
        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA[kind], compiled=False
        )
        return loss(student_ND, head_VD, teacher_ND, head_VD, labels)
    weights_N = torch.full_like(student_ND[:, 0], 1.0 / tokens, requires_grad=False)
    if form == "dense":
        return dense_divergence(student_ND, teacher_ND, head_VD, weights_N, kind)
    from backends.pytorch.head import Head
    from backends.pytorch.loss_head import chunked_divergence
    from opsd_cli.losses.divergence import DivergenceSpec

    spec = DivergenceSpec(cast(Literal["forward_kl", "reverse_kl", "jsd"], kind))
    return chunked_divergence(
        student_ND, teacher_ND, Head(head_VD), weights_N, spec, chunk_tokens
    ).loss


def measure(args: argparse.Namespace) -> dict[str, float]:
    (kind,), (form,) = args.kind, args.form
    if form == "mlx":
        return measure_mlx(args)
    if form in ("trl", "liger"):  # the modules' own size is not the loss's
        divergence(made(argparse.Namespace(**{**vars(args), "vocabulary": 8, "tokens": 2})),
                   kind, form, None).backward()  # fmt: skip
    inputs = made(args)
    before = resident_mb()
    cpu, wall = time.process_time(), time.perf_counter()
    loss = divergence(inputs, kind, form, args.chunk_tokens)
    loss.backward()
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "peak_mb": peak_mb() - before,
        "loss": loss.item(),
    }


def measure_mlx(args: argparse.Namespace) -> dict[str, float]:
    import mlx.core as mx
    from mlx import nn

    from backends.mlx.loss_head import chunked_divergence
    from backends.mlx.split_model import Head
    from opsd_cli.losses.divergence import DivergenceSpec

    mx.random.seed(0)
    layer = nn.Linear(args.hidden, args.vocabulary, bias=False)
    layer.weight = mx.random.normal((args.vocabulary, args.hidden)) * args.hidden**-0.5
    student_ND = mx.random.normal((args.tokens, args.hidden)) * 3.0
    teacher_ND = student_ND + mx.random.normal((args.tokens, args.hidden))
    mx.eval(layer.parameters(), student_ND, teacher_ND)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    cpu, wall = time.process_time(), time.perf_counter()
    head = Head(layer, args.vocabulary, None, 1.0)
    spec = DivergenceSpec(args.kind[0])
    found = chunked_divergence(head, student_ND, teacher_ND, spec, True, args.chunk_tokens)
    mx.eval(found.jacobian_ND)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "peak_mb": (mx.get_peak_memory() - before) / 1e6,
        "loss": float(found.columns[0].mean()),
    }


def dense_divergence(
    student_ND: Tensor, teacher_ND: Tensor, head_VD: Tensor, weights_N: Tensor, kind: str
) -> Tensor:
    """The divergence by its formula, differentiated by autograd."""
    import torch

    # Logits of bfloat16 are compared in float32, as the other forms do.
    dtype = torch.promote_types(head_VD.dtype, torch.float32)
    with torch.no_grad():
        log_q_NV = torch.log_softmax(teacher_ND @ head_VD.T, dim=-1, dtype=dtype)
    log_p_NV = torch.log_softmax(student_ND @ head_VD.T, dim=-1, dtype=dtype)
    if kind == "forward_kl":
        value_N = (log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1)
    elif kind == "reverse_kl":
        value_N = (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)
    else:
        log_m_NV = torch.logaddexp(log_p_NV, log_q_NV) - math.log(2.0)
        value_N = 0.5 * (
            (log_q_NV.exp() * (log_q_NV - log_m_NV)).sum(-1)
            + (log_p_NV.exp() * (log_p_NV - log_m_NV)).sum(-1)
        )
    return (value_N * weights_N).sum()


if __name__ == "__main__":
    main()
