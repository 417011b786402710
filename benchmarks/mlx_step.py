"""A training step on MLX against mlx-lm's own trainer: same model, same tokens, side by side.

    python benchmarks/mlx_step.py [--rounds 3] [--checkpointing]

mlx-lm's `train` (what `mlx_lm.lora` runs, compiled step and all) and this package's step take turns
in one process, so that a busy machine slows both. Each sequence is a prompt and a completion, and
the completion's tokens are learnt: by cross-entropy in both, then by OPSD's divergence here. Times
are CPU seconds of the process; what counts is the ratio. It also times the parts of our step.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backends import get
from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    LossBatch,
    PolicyGradientBatch,
    PolicyGradientItem,
)
from benchmarks.measuring import parser
from benchmarks.random_models import build_qwen3
from opsd_cli.config.schema import Config
from opsd_cli.losses.divergence import DivergenceSpec

ROWS, PROMPT, COMPLETION = 4, 32, 96
MODEL: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip
LORA = {"rank": 16, "alpha": 32}
THEIRS = "mlx_lm.lora, cross-entropy"

Tokens = tuple[int, ...]
Steps = Callable[[int], None]
"""Makes so many training steps."""


def theirs(folder: Path, pairs: list[tuple[Tokens, Tokens]], checkpointing: bool) -> Steps:
    """mlx-lm's trainer."""
    import contextlib
    import io

    from mlx.optimizers import AdamW
    from mlx_lm import load
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers

    model = load(str(folder))[0]
    model.freeze()
    keys = [
        f"{part}.{name}"
        for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
        for name in (f"{letter}_proj" for letter in names)
    ]
    settings = {"rank": 16, "scale": 2.0, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, -1, settings)
    data = [([*prompt, *completion], len(prompt)) for prompt, completion in pairs]
    optimizer = AdamW(learning_rate=1e-4)

    def steps(count: int) -> None:
        arguments = TrainingArgs(
            batch_size=ROWS, iters=count, steps_per_report=10**6, steps_per_save=10**6,
            adapter_file=str(folder / "adapters.safetensors"), grad_checkpoint=checkpointing,
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(model, optimizer, data, args=arguments)

    return steps


def batches(
    pairs: list[tuple[Tokens, Tokens]], teacher_prompts: list[Tokens]
) -> tuple[PolicyGradientBatch, DivergenceBatch]:
    """Cross-entropy, which is a policy gradient of advantage 1, and OPSD, on the same tokens."""
    weight = 1 / (ROWS * COMPLETION)
    supervised = PolicyGradientBatch(
        tuple(PolicyGradientItem(p, c, (1.0,) * len(c), weight) for p, c in pairs)
    )
    items = (
        DivergenceItem(prompt, teacher_prompt, completion, weight)
        for (prompt, completion), teacher_prompt in zip(pairs, teacher_prompts, strict=True)
    )
    return supervised, DivergenceBatch(tuple(items), DivergenceSpec("reverse_kl"))


def forms(folder: Path, checkpointing: bool) -> dict[str, Steps]:
    """What is measured: mlx-lm's step, ours, and parts of ours."""
    random = np.random.default_rng(0)

    def text(length: int) -> Tokens:
        return tuple(random.integers(1, MODEL["vocab_size"], length).tolist())

    pairs = [(text(PROMPT), text(COMPLETION)) for _ in range(ROWS)]
    supervised, divergence = batches(pairs, [text(2 * PROMPT) for _ in pairs])
    build_qwen3(folder, {"eos_token_id": 0, **MODEL}, pad_is_end=True)
    train = {"gradient_checkpointing": checkpointing, "dtype": "float32"}
    policy = get("mlx").load(Config(model=str(folder), lora=LORA, train=train), True)

    def ours(batch: LossBatch) -> Steps:
        def step() -> None:
            policy.accumulate(batch)
            policy.apply(1e-4)

        return repeated(step)

    return {
        THEIRS: theirs(folder, pairs, checkpointing),
        "cross-entropy": ours(supervised),
        "OPSD, reverse KL": ours(divergence),
        "  of it measuring alone": repeated(lambda: policy.measure(divergence)),
        "  of it one forward pass": repeated(lambda: policy.score(pairs)),
    }


def repeated(step: Callable[[], object]) -> Steps:
    """A call makes so many steps."""

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    return steps


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--steps", type=int, default=4, help="of a form in each round")
    options.add_argument("--checkpointing", action="store_true")
    given = options.parse_args()
    import mlx.core as mx

    spent: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        measured = forms(Path(folder), given.checkpointing)
        for number in range(given.rounds + 1):  # the first warms up
            for form, steps in measured.items():
                mx.clear_cache()
                mx.reset_peak_memory()
                start = time.process_time()
                steps(given.steps)
                if number:
                    seconds = (time.process_time() - start) / given.steps
                    spent.setdefault(form, []).append(seconds)
                    peaks[form] = mx.get_peak_memory() / 2**20
    print("| step | CPU-seconds, median | ÷ mlx_lm.lora (least–most) | peak of the allocator |")
    print("|---|---|---|---|")
    for form, found in spent.items():
        ratios = [ours / theirs for ours, theirs in zip(found, spent[THEIRS], strict=True)]
        print(
            f"| {form} | {statistics.median(found):.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}–{max(ratios):.2f}) | {peaks[form]:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
