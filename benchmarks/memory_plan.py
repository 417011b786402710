"""The memory plan of `--dry-run` against measured peaks, on the CPU, for both backends.

    python benchmarks/memory_plan.py [--backends cpu,mlx] [--only NAME]
    python benchmarks/memory_plan.py --backends cpu --model DIR

Each case is a process of its own: a random model is built, one OPSD step is made (rollouts, loss,
gradient, update) through the backend, and the peak is read: on MLX its allocator's, on PyTorch the
resident set's rise since before the model was loaded. With `--model`, a pretrained model
(`benchmarks/real/make.py`) takes the place of the random ones; where its completion stops early, it
learns from random tokens up to the full length, which the plan counts.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import measured_elsewhere, parser
from benchmarks.random_models import build_qwen3

MODEL = {
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
#: MLX on a Linux CPU is slow, and its allocator counts exactly: a smaller model does.
SMALLER = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
CHECKPOINTED = {"train": {"gradient_checkpointing": True}}
#: What differs from MODEL; prompt tokens of student and teacher, completion tokens and questions,
#: which MLX halves; further config.
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int, int], dict[str, Any]]] = {
    "base": ({}, (64, 128, 128, 16), {}),
    "base, checkpointed": ({}, (64, 128, 128, 16), CHECKPOINTED),
    "twice the layers": ({"num_hidden_layers": 16}, (64, 128, 128, 16), {}),
    "wide blocks": ({"intermediate_size": 1536}, (64, 128, 128, 16), {}),
    "long": ({}, (128, 256, 384, 4), {}),
    "long, checkpointed": ({}, (128, 256, 384, 4), CHECKPOINTED),
    "large vocabulary": ({"vocab_size": 65536}, (64, 128, 128, 16), CHECKPOINTED),
}
#: The cases of a pretrained model, in the same form.
PRETRAINED: dict[str, tuple[dict[str, Any], tuple[int, int, int, int], dict[str, Any]]] = {
    "pretrained": ({}, (64, 128, 128, 16), {}),
    "pretrained, checkpointed": ({}, (64, 128, 128, 16), CHECKPOINTED),
    "pretrained, small batches": ({}, (64, 128, 64, 8), {"train": {"micro_batch_tokens": 1024}}),
}


def lengths(name: str, backend: str) -> tuple[int, int, int, int]:
    """Student's and teacher's prompt, completion, questions."""
    student, teacher, completion, questions = (CASES | PRETRAINED)[name][1]
    if backend == "mlx":
        return student // 2, teacher // 2, completion // 2, questions // 2
    return student, teacher, completion, questions


def config_of(name: str, backend: str, folder: str) -> Any:
    """A case's config."""
    from opsd_cli.config.layers import merge
    from opsd_cli.config.schema import Config

    _, _, completion, questions = lengths(name, backend)
    extra = (CASES | PRETRAINED)[name][2]
    tree = {
        "model": folder,
        "lora": {"rank": 16, "alpha": 32},
        "sampling": {"max_new_tokens": completion},
        "rollouts": {"batch_size": questions},
        "train": {"questions_per_step": questions, "micro_batch_tokens": 4096},
    }
    return Config.model_validate(merge(tree, extra))


def measure(name: str, backend: str, folder: str) -> int:
    """The peak of one step, in bytes."""
    import numpy as np
    import psutil

    import backends
    from backends.interface import (
        DivergenceBatch,
        DivergenceItem,
        RolloutRequest,
        Sampling,
    )
    from opsd_cli.losses.divergence import DivergenceSpec

    student, teacher, completion, questions = lengths(name, backend)
    random = np.random.default_rng(0)

    def prompt(length: int) -> tuple[int, ...]:
        return tuple(random.integers(1, 900, length).tolist())

    backends.get(backend).capability()  # libraries are no part of the plan
    __import__("backends.pytorch.policy" if backend == "cpu" else "backends.mlx.policy")
    before = psutil.Process().memory_info().rss
    policy = backends.get(backend).load(config_of(name, backend, folder), trainable=True)
    requests = [RolloutRequest(str(i), 0, prompt(student), i) for i in range(questions)]
    drawn = list(policy.generate(requests, Sampling(max_new_tokens=completion)))
    items = tuple(
        DivergenceItem(
            r.request.prompt_ids,
            prompt(teacher),
            r.completion_ids + prompt(completion - len(r.completion_ids)),
            1.0,
        )
        for r in drawn
    )  # fmt: skip
    policy.accumulate(DivergenceBatch(items, DivergenceSpec("jsd"), "initial"))
    policy.apply(1e-4)
    return policy.memory().peak - (before if backend == "cpu" else 0)


def build(name: str, backend: str, folder: Path) -> None:
    """The random model of a case; no token of it is a stop."""
    settings = MODEL | (SMALLER if backend == "mlx" else {}) | CASES[name][0]
    more = {"max_position_embeddings": 4096, "eos_token_id": 0}
    build_qwen3(folder, settings | more, pad_is_end=True, stops=False)


def measured(name: str, backend: str, folder: str) -> float:
    """The peak of one step in a process of its own, in bytes."""
    command = [sys.executable, __file__, "--measure", name, backend, folder]
    # glibc is configured to return freed memory, so that the resident set is what is in use.
    found = measured_elsewhere(
        command,
        MLX_DISABLE_COMPILE="1",
        MALLOC_MMAP_THRESHOLD_="65536",
        MALLOC_TRIM_THRESHOLD_="0",
    )
    return found["peak"]


def planned(name: str, backend: str, folder: str) -> Any:
    """The memory plan of a case."""
    import backends
    from opsd_cli.planning.memory_plan import Prompts, plan
    from opsd_cli.planning.model_shape import shape_of

    shape = shape_of(json.loads((Path(folder) / "config.json").read_text()))
    assert shape is not None
    student, teacher, _, _ = lengths(name, backend)
    config, memory = config_of(name, backend, folder), backends.traits_of(backend).memory
    return plan(config, shape, Prompts(student, teacher), memory, on_cpu=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backends", default="cpu,mlx", help="separated by commas")
    options.add_argument("--only", help="cases, separated by semicolons")
    options.add_argument("--model", help="a pretrained model's folder")
    options.add_argument("--parts", action="store_true", help="the plan's parts too")
    options.add_argument("--measure", nargs=3, metavar=("CASE", "BACKEND", "FOLDER"))
    given = options.parse_args()
    if given.measure:
        print(json.dumps({"peak": measure(*given.measure)}))
        return
    print("| model and batch | backend | planned | measured | planned ÷ measured |")
    print("|---|---|---|---|---|")
    names = given.only.split(";") if given.only else PRETRAINED if given.model else CASES
    for name, backend in itertools.product(names, given.backends.split(",")):
        with tempfile.TemporaryDirectory() as made:
            folder = given.model or made
            if not given.model:
                build(name, backend, Path(folder))
            peak, plan = measured(name, backend, folder), planned(name, backend, folder)
        print(
            f"| {name} | {backend} | {plan.peak / 2**20:.0f} MiB "
            f"| {peak / 2**20:.0f} MiB | {plan.peak / peak:.2f} |",
            flush=True,
        )
        if given.parts:
            print({part: f"{size / 2**20:.0f}" for part, size in plan.parts.items()})


if __name__ == "__main__":
    main()
