"""A training step on MLX against mlx-lm's own trainer: same model, same tokens, side by side.

    python benchmarks/mlx_step.py [--rounds 3] [--checkpointing]

mlx-lm's `train` (what `mlx_lm.lora` runs, compiled step and all) and this package's step take turns
in one process, so that a busy machine slows both. Each sequence is a prompt and a completion, and
the completion's tokens are learnt: by cross-entropy in both, then by OPSD's divergence here. Times
are CPU seconds of the process; what counts is the ratio. It also times the parts of our step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from backends import get
from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    PolicyGradientBatch,
    PolicyGradientItem,
)
from opsd_cli.config.schema import Config
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support.tiny_models import build_tokenizer

ROWS, PROMPT, COMPLETION = 4, 32, 96
MODEL: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip
LORA = {"rank": 16, "alpha": 32}


def build(folder: Path) -> None:
    """A random Qwen3 and a tokenizer with as many tokens."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    build_tokenizer(folder, pad_is_end=True)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for index in range(len(vocabulary), MODEL["vocab_size"]):
        vocabulary[f"t{index}"] = index
    path.write_text(json.dumps(tokenizer))
    Qwen3ForCausalLM(Qwen3Config(eos_token_id=0, **MODEL)).save_pretrained(folder)


def theirs(
    folder: Path, pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], checkpointing: bool
) -> Callable[[int], None]:
    """mlx-lm's trainer: a call makes so many steps."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="a round")
    parser.add_argument("--checkpointing", action="store_true")
    given = parser.parse_args()
    random = np.random.default_rng(0)

    def text(length: int) -> tuple[int, ...]:
        return tuple(random.integers(1, MODEL["vocab_size"], length).tolist())

    pairs = [(text(PROMPT), text(COMPLETION)) for _ in range(ROWS)]
    weight = 1 / (ROWS * COMPLETION)
    items = tuple(PolicyGradientItem(p, c, (1.0,) * len(c), weight) for p, c in pairs)
    supervised = PolicyGradientBatch(items)
    divergence = DivergenceBatch(
        tuple(DivergenceItem(p, text(2 * PROMPT), c, weight) for p, c in pairs),
        DivergenceSpec("reverse_kl"),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        train = {"gradient_checkpointing": given.checkpointing, "dtype": "float32"}
        policy = get("mlx").load(Config(model=name, lora=LORA, train=train), True)

        def ours(batch: Any) -> Callable[[int], None]:
            def steps(count: int) -> None:
                for _ in range(count):
                    policy.accumulate(batch)
                    policy.apply(1e-4)

            return steps

        def reading(count: int) -> None:
            for _ in range(count):
                policy.score(pairs)

        kinds = {
            "mlx_lm.lora, cross-entropy": theirs(folder, pairs, given.checkpointing),
            "cross-entropy": ours(supervised),
            "OPSD, reverse KL": ours(divergence),
            "  of it measuring alone": lambda n: [policy.measure(divergence) for _ in range(n)],
            "  of it one forward pass": reading,
        }
        spent: dict[str, list[float]] = {kind: [] for kind in kinds}
        peaks: dict[str, float] = {}
        for number in range(given.rounds + 1):  # the first warms up
            for kind, steps in kinds.items():
                mx.clear_cache()
                mx.reset_peak_memory()
                start = time.process_time()
                steps(given.steps)
                if number:
                    spent[kind].append((time.process_time() - start) / given.steps)
                    peaks[kind] = mx.get_peak_memory() / 2**20
    base = spent["mlx_lm.lora, cross-entropy"]
    print("| step | CPU-seconds, median | ÷ mlx_lm.lora (least–most) | peak of the allocator |")
    print("|---|---|---|---|")
    for kind, seconds in spent.items():
        ratios = [a / b for a, b in zip(seconds, base, strict=True)]
        print(
            f"| {kind} | {statistics.median(seconds):.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}–{max(ratios):.2f}) | {peaks[kind]:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
