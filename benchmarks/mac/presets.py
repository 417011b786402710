"""Whether the Mac presets fit: their memory plans against peaks on models of their shapes.

The weights are random. Measured are one micro-batch of the recipe's longest sequences, forward and
backward, and rollouts at their full length, of which only the last tokens are decoded: the cache
is as large as at the end of a long rollout.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.mac.device import on_metal
from benchmarks.mac.models import TINY, batch_of, random_ids, write_model
from benchmarks.proof.recorder import Recorder, Skip

PRESETS = ("mac-16gb", "mac-32gb", "mac-64gb", "mac-128gb")
#: Tokens that are decoded at the end of a rollout.
DECODED = 8
#: What a tiny run changes in a preset.
SMALLER = (
    "sampling.max_new_tokens=24", "prompts.teacher.max_tokens=48", "train.micro_batch_tokens=144",
    "rollouts.batch_size=2", "train.questions_per_step=2", "train.dtype=float32", "lora.rank=4",
)  # fmt: skip
TINY_QUESTION = 16


def measure(record: Recorder) -> None:
    """Every preset that fits in the memory that is free, smallest first."""
    for name in PRESETS[:1] if record.tiny else PRESETS:
        with record.attempt(preset=name) as row:
            measure_preset(record, name, row)


def configured(name: str, tiny: bool) -> Any:
    """A preset's config, its evaluations no longer than its rollouts, which alone are measured."""
    from opsd_cli.config.resolve import assigned, resolve

    config = resolve(name, list(SMALLER) if tiny else [])
    return assigned(config, "evaluation.max_new_tokens", config.sampling.max_new_tokens)


def measure_preset(record: Recorder, name: str, row: dict[str, Any]) -> None:
    """Plan and peaks of one preset."""
    import mlx.core as mx

    import backends
    from backends.mlx.device_memory import free
    from opsd_cli.config.resolve import assigned
    from opsd_cli.planning.memory_plan import Prompts, estimated, plan
    from opsd_cli.planning.model_shape import configured_shape, shape_of

    config = configured(name, record.tiny)
    bits = 4 if config.model.casefold().endswith("-4bit") else None
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if record.tiny:
            write_model(folder, TINY, bits, "float32")
            shape = shape_of(json.loads((folder / "config.json").read_text()))
        else:
            shape = configured_shape(config)
        if shape is None:
            raise Skip(f"the shape of {config.model} is not known")
        prompts = estimated(config, [])
        if record.tiny:
            prompts = Prompts(TINY_QUESTION, prompts.teacher)
        on_cpu = not on_metal()
        planned = plan(config, shape, prompts, backends.traits_of("mlx").memory, on_cpu)
        row.update(planned_gib=planned.peak / 2**30, free_gib=free() / 2**30)
        if planned.peak > free():
            raise Skip(
                f"it needs {planned.peak / 2**30:.1f} GiB, and {free() / 2**30:.1f} are free"
            )
        if not record.tiny:
            write_model(folder, settings_of(shape), bits, "bfloat16")
        policy = backends.get("mlx").load(assigned(config, "model", made), True)
        row["weights_gib"] = policy.memory().current / 2**30
        row.update(peaks(policy, config, shape.vocabulary, prompts))
        measured = max(row["learning_gib"], row["rollouts_gib"])
        row["planned_over_measured"] = ratio = planned.peak / 2**30 / measured
        record.check(f"{name} takes no more than planned", ratio >= 0.95, ratio=ratio)
        del policy
    mx.clear_cache()


def settings_of(shape: Any) -> dict[str, Any]:
    """The config.json of a shape."""
    return {
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary, "tie_word_embeddings": shape.tied,
    }  # fmt: skip


def peaks(policy: Any, config: Any, vocabulary: int, prompts: Any) -> dict[str, float]:
    """Peaks of learning and of rollouts, weights included, and seconds of either."""
    import mlx.core as mx

    from backends.interface import RolloutRequest, Sampling

    completion = config.sampling.max_new_tokens
    rows = max(1, config.train.micro_batch_tokens // (prompts.teacher + completion))
    rows = min(rows, config.train.questions_per_step)
    batch = batch_of(vocabulary, rows, prompts.student, prompts.teacher, completion)
    found: dict[str, float] = {}

    def timed(name: str, work: Any) -> None:
        mx.clear_cache()
        mx.reset_peak_memory()
        start = time.perf_counter()
        work()
        mx.synchronize()
        found[f"{name}_s"] = time.perf_counter() - start
        found[f"{name}_gib"] = mx.get_peak_memory() / 2**30

    def learn() -> None:
        policy.accumulate(batch)
        policy.apply(1e-6)

    length = prompts.student + completion - DECODED
    requests = [
        RolloutRequest(str(n), 0, random_ids(vocabulary, length, n), n)
        for n in range(config.rollouts.batch_size)
    ]
    timed("learning", learn)
    timed("rollouts", lambda: list(policy.generate(requests, Sampling(max_new_tokens=DECODED))))
    return found
