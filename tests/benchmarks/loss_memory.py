"""Memory and CPU time of the divergence loss, token-chunked against dense, on one input.

    python tests/benchmarks/loss_memory.py
    python tests/benchmarks/loss_memory.py --form mlx --tokens 512 --kind jsd

Measures forward and backward, from two sets of hidden states and a frozen head to the student's
hidden gradient, in float32 at the vocabulary of Qwen3. Every figure comes from a process of its
own, because a process's peak never goes down: the peak resident size during the loss, minus the
resident size once the inputs exist, and the CPU time of all threads. The dense form is the formula
as one would write it with autograd; it needs about 8 GB. The form `mlx` is the MLX backend's, whose
own allocator says how much was alive; on a Linux CPU it is slow.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("forward_kl", "reverse_kl", "jsd")
FORMS = ("chunked", "dense", "mlx")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk-tokens", type=int, default=None)
    parser.add_argument("--kind", choices=KINDS, action="append", help="repeatable; all by default")
    parser.add_argument(
        "--form", choices=FORMS, action="append", help="repeatable; PyTorch's two by default"
    )
    parser.add_argument("--measure", action="store_true", help="measure one, in this process")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    print(
        f"V = {args.vocabulary:,}, {args.tokens:,} tokens, hidden {args.hidden}, float32, "
        f"{args.threads} threads; forward + backward"
    )
    print(f"{'kind':<12}{'form':<9}{'peak above inputs':>18}{'CPU':>9}{'wall':>9}{'loss':>11}")
    for kind in args.kind or KINDS:
        for form in args.form or FORMS[:2]:
            row = measure_elsewhere(args, kind, form)
            print(
                f"{kind:<12}{form:<9}{row['peak_mb']:>15,.0f} MB{row['cpu_s']:>7.1f} s"
                f"{row['wall_s']:>7.1f} s{row['loss']:>11.6f}",
                flush=True,
            )


def measure_elsewhere(args: argparse.Namespace, kind: str, form: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", "--kind", kind, "--form", form]
    for name in ("vocabulary", "tokens", "hidden", "threads", "chunk_tokens"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    # Threads that wait for work must not count as work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    environment["OMP_NUM_THREADS"] = str(args.threads)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{kind}, {form}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def measure(args: argparse.Namespace) -> dict[str, float]:
    if args.form == ["mlx"]:
        return measure_mlx(args)
    import torch

    from backends.pytorch.loss_head import chunked_divergence
    from opsd_cli.divergence import DivergenceSpec

    (kind,), (form,) = args.kind, args.form
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    # Filled in place, so that making the inputs leaves no higher peak behind.
    head_VD = torch.empty(args.vocabulary, args.hidden).normal_(std=args.hidden**-0.5)
    student_ND = torch.empty(args.tokens, args.hidden).normal_(std=3.0)
    teacher_ND = torch.empty(args.tokens, args.hidden).normal_().add_(student_ND)
    weights_N = torch.full((args.tokens,), 1.0 / args.tokens)
    student_ND.requires_grad_()

    before = resident_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    if form == "chunked":
        loss = chunked_divergence(
            student_ND, teacher_ND, head_VD, weights_N, DivergenceSpec(kind), args.chunk_tokens
        ).loss
    else:
        loss = dense_divergence(student_ND, teacher_ND, head_VD, weights_N, kind)
    loss.backward()
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": (peak_bytes() - before) / 1e6,
        "loss": loss.item(),
    }


def measure_mlx(args: argparse.Namespace) -> dict[str, float]:
    import mlx.core as mx
    from mlx import nn

    from backends.mlx.loss_head import chunked_divergence
    from backends.mlx.network import Head
    from opsd_cli.divergence import DivergenceSpec

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
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": (mx.get_peak_memory() - before) / 1e6,
        "loss": float(found.columns[0].mean()),
    }


def dense_divergence(
    student_ND: Tensor, teacher_ND: Tensor, head_VD: Tensor, weights_N: Tensor, kind: str
) -> Tensor:
    """The divergence as written on paper, left to autograd."""
    import torch

    with torch.no_grad():
        log_q_NV = torch.log_softmax(teacher_ND @ head_VD.T, dim=-1)
    log_p_NV = torch.log_softmax(student_ND @ head_VD.T, dim=-1)
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


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """What is resident now, or the peak so far where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_bytes()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
