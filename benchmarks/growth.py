"""How time and memory of a training step grow with length, vocabulary and batch.

    python benchmarks/growth.py --rounds 2

A random Qwen3, hidden 128, 2 layers, vocabulary 32,768, float32, LoRA of rank 16 on all linear
layers, JSD, prompts of 32 (student) and 128 (teacher) tokens, one completion of 512. One of length,
vocabulary and batch is varied, each point in a process of its own; `train.micro_batch_tokens` is
4,096. Printed: CPU seconds of a step and of its loss head alone, medians; peak memory above the
loaded model; and lower bounds beside them:

- operations: the matrix products that any exact step has, at the rate of the head's own product,
  measured in the same process. The head has three for every token (student, teacher, and backward);
  the layers run forward once for the teacher, and forward and backward for the student.
- bytes: what autograd keeps of the student's forward pass over a micro-batch, and the hidden states
  and gradients of its completions, counted in the same process.

Then decoding: four completions of a length side by side, none of which ends earlier; CPU time per
token, and memory above the loaded model beside the size of the keys and values.

Slopes are those of straight lines through the logarithms: 1 is proportional, 0 is flat.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import forget_peak, measured_elsewhere, new_peak_mb, parser, resident_mb
from benchmarks.step import RANK, build

HIDDEN, LAYERS = 128, 2
STUDENT_PROMPT, TEACHER_PROMPT = 32, 128
BASE = {"length": 512, "vocabulary": 32_768, "batch": 1}
AXES: dict[str, list[int]] = {
    "length": [256, 512, 1024, 2048, 4096, 8192],
    "vocabulary": [8_192, 32_768, 65_536, 151_936],
    "batch": [1, 2, 4, 8, 16, 32],
    "decoding": [256, 512, 1024, 2048, 4096, 8192],
}
BUDGET = 4096
DECODED = 4


def measure(folder: Path, point: dict[str, int], checkpointing: bool) -> dict[str, float]:
    import torch

    from backends.interface import DivergenceBatch, DivergenceItem
    from backends.pytorch.loss_head import chunked_divergence
    from backends.pytorch.policy import load_policy
    from opsd_cli.config.resolve import resolve
    from opsd_cli.losses.divergence import DivergenceSpec

    torch.set_num_threads(2)
    settings = [
        f"model={folder}", f"lora.rank={RANK}", "lora.alpha=32", "train.dtype=float32",
        f"train.micro_batch_tokens={BUDGET}", f"train.gradient_checkpointing={checkpointing}",
    ]  # fmt: skip
    policy = load_policy(resolve(None, settings), torch.device("cpu"), trainable=True)
    torch.set_num_threads(2)
    length, batch = point["length"], point["batch"]
    random = np.random.default_rng(0)
    rows = random.integers(64, point["vocabulary"], (batch, length))
    items = tuple(
        DivergenceItem(
            (5,) * STUDENT_PROMPT, (6,) * TEACHER_PROMPT, tuple(row.tolist()), 1 / rows.size
        )
        for row in rows
    )
    loss_batch = DivergenceBatch(items, DivergenceSpec("jsd"))

    # The loss head alone, on as many hidden states as a micro-batch has, scaled to the whole. It
    # comes first, while nothing else has been in memory.
    tokens = min(rows.size, 4096)
    head = policy._split_model.head
    student = torch.randn(tokens, HIDDEN).requires_grad_()
    teacher = torch.randn(tokens, HIDDEN)
    forget_peak()
    base = before = resident_mb()
    cpu = time.process_time()
    weights = torch.full((tokens,), 1 / tokens)
    chunked_divergence(student, teacher, head, weights, loss_batch.spec).loss.backward()
    head_s = (time.process_time() - cpu) * rows.size / tokens
    head_mb = new_peak_mb() - before

    policy.accumulate(DivergenceBatch(items[:1], loss_batch.spec))  # warms up, on one row
    policy.apply(0.0)
    forget_peak()
    cpu = time.process_time()
    policy.accumulate(loss_batch)
    policy.apply(1e-5)
    step_s, step_mb = time.process_time() - cpu, new_peak_mb() - base

    return {
        "step_s": step_s, "step_mb": step_mb, "head_s": head_s, "head_mb": head_mb,
        **floors(policy, items, loss_batch, point),
    }  # fmt: skip


def measure_decoding(folder: Path, length: int) -> dict[str, float]:
    import torch

    from backends.interface import RolloutRequest, Sampling
    from backends.pytorch.policy import load_policy
    from opsd_cli.config.resolve import resolve

    config = resolve(None, [f"model={folder}", "train.dtype=float32"])
    policy = load_policy(config, torch.device("cpu"), trainable=False)
    policy._stop_ids = frozenset()
    torch.set_num_threads(2)

    def draw(tokens: int) -> int:
        sampling = Sampling(1.1, 0.95, 20, max_new_tokens=tokens)
        requests = [RolloutRequest(str(n), 0, (5,) * STUDENT_PROMPT, n) for n in range(DECODED)]
        return sum(len(r.completion_ids) for r in policy.generate(requests, sampling))

    draw(8)
    forget_peak()
    base, cpu = resident_mb(), time.process_time()
    tokens = draw(length)
    assert tokens == DECODED * length
    settings = policy._split_model.config
    width = settings.num_key_value_heads * settings.head_dim
    return {
        "token_ms": 1000 * (time.process_time() - cpu) / tokens,
        "peak_mb": new_peak_mb() - base,
        "floor_mb": DECODED * (STUDENT_PROMPT + length) * LAYERS * 2 * width * 4 / 1e6,
    }


def floors(policy: Any, items: Any, loss_batch: Any, point: dict[str, int]) -> dict[str, float]:
    """Lower bounds of any exact step: seconds of its operations and MB of its bytes."""
    import torch

    from backends.shared.micro_batches import micro_batches

    length, batch = point["length"], point["batch"]
    weight_VD = policy._split_model.head.weight_VD
    rate = multiply_rate(weight_VD)
    tokens = length * batch
    head = 3 * 2 * tokens * HIDDEN * len(weight_VD)
    layers = sum(
        p.numel() for name, p in policy._model.named_parameters()
        if p.ndim == 2 and "embed" not in name and "lora" not in name
    )  # fmt: skip
    student, teacher = (STUDENT_PROMPT + length) * batch, (TEACHER_PROMPT + length) * batch
    products = 2 * layers * (2 * student + teacher)
    # Causal attention: two products over half the square, twice that backward.
    pairs_student = (STUDENT_PROMPT + length) ** 2 / 2 * batch
    pairs_teacher = (TEACHER_PROMPT + length) ** 2 / 2 * batch
    attention = LAYERS * 2 * 2 * HIDDEN * (3 * pairs_student + pairs_teacher)
    lengths = [TEACHER_PROMPT + length] * batch
    group = max(len(g) for g in micro_batches(lengths, BUDGET))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in policy._model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pairs = [(item.student_prompt, item.completion) for item in items[:group]]
        held = policy._read(pairs, training=True)
    saved = sum(size for pointer, size in kept.items() if pointer not in parameters)
    del held
    hidden = 3 * 4 * HIDDEN * length * group  # states of both roles, and the gradients
    return {
        "floor_head_s": head / rate,
        "floor_s": (head + products + attention) / rate,
        "floor_mb": (saved + hidden) / 1e6,
    }


def multiply_rate(weight_VD: Any) -> float:
    """Operations per CPU second of the head's matrix product."""
    import torch

    rows = max(64, 64 * 2**20 // (4 * len(weight_VD)))
    hidden_ND = torch.randn(rows, weight_VD.shape[1])
    out = torch.empty(rows, len(weight_VD))
    best = 0.0
    for _ in range(5):
        cpu = time.process_time()
        for _ in range(4):
            torch.mm(hidden_ND, weight_VD.T, out=out)
        best = max(best, 4 * 2 * out.numel() * HIDDEN / (time.process_time() - cpu))
    return best


def decoding(rounds: int) -> None:
    """Print the cost of a decoded token by the length of its completion."""
    print("| decoded tokens | CPU a token | peak memory | keys and values |\n|---|---|---|---|")
    columns: dict[str, list[float]] = {"token_ms": [], "peak_mb": [], "floor_mb": []}
    shape = {"hidden": HIDDEN, "layers": LAYERS, "vocabulary": BASE["vocabulary"]}
    with tempfile.TemporaryDirectory() as made:
        build(Path(made), shape)
        for length in AXES["decoding"]:
            command = [sys.executable, __file__, "--decode", made, str(length)]
            rows = [measured_elsewhere(command) for _ in range(rounds)]
            for name, column in columns.items():
                column.append(statistics.median(row[name] for row in rows))
            token, peak_mb, floor = (column[-1] for column in columns.values())
            print(
                f"| {length:,} | {token:.2f} ms | {peak_mb:,.0f} MB | {floor:,.0f} MB |", flush=True
            )
    slopes = (f"{slope(AXES['decoding'], column):.2f}" for column in columns.values())
    print(f"| slope | {' | '.join(slopes)} |", flush=True)


def slope(values: list[int], found: list[float]) -> float:
    """Slope of the straight line through the logarithms."""
    return float(np.polyfit(np.log(values), np.log(found), 1)[0])


def main() -> None:
    options = parser(__doc__, rounds=2)
    options.add_argument("--axis", choices=AXES, action="append")
    options.add_argument("--checkpointing", action="store_true")
    options.add_argument("--measure", nargs=2, metavar=("FOLDER", "POINT"))
    options.add_argument("--decode", nargs=2, metavar=("FOLDER", "LENGTH"), help="measure that")
    given = options.parse_args()
    if given.measure:
        folder, point = given.measure
        print(json.dumps(measure(Path(folder), json.loads(point), given.checkpointing)))
        return
    if given.decode:
        folder, length = given.decode
        print(json.dumps(measure_decoding(Path(folder), int(length))))
        return
    if "decoding" in (given.axis or AXES):
        decoding(given.rounds)
    names = ["step_s", "floor_s", "head_s", "floor_head_s", "step_mb", "head_mb", "floor_mb"]
    for axis in given.axis or AXES:
        if axis == "decoding":
            continue
        print(
            f"\n| {axis} | step | operations' floor | head | its floor "
            "| peak of the step | of the head | bytes' floor |"
        )
        print("|---|---|---|---|---|---|---|---|")
        columns: dict[str, list[float]] = {name: [] for name in names}
        for value in AXES[axis]:
            point = {**BASE, axis: value}
            with tempfile.TemporaryDirectory() as made:
                build(
                    Path(made),
                    {"hidden": HIDDEN, "layers": LAYERS, "vocabulary": point["vocabulary"]},
                )
                command = [sys.executable, __file__, "--measure", made, json.dumps(point)]
                command += ["--checkpointing"] * given.checkpointing
                rows = [measured_elsewhere(command) for _ in range(given.rounds)]
            for name in names:
                columns[name].append(statistics.median(row[name] for row in rows))
            cells = [
                f"{columns[name][-1]:.2f} s"
                if name.endswith("_s")
                else f"{columns[name][-1]:,.0f} MB"
                for name in names
            ]
            print(f"| {value:,} | " + " | ".join(cells) + " |", flush=True)
        slopes = [f"{slope(AXES[axis], columns[name]):.2f}" for name in names]
        print("| slope | " + " | ".join(slopes) + " |", flush=True)


if __name__ == "__main__":
    main()
