"""Rollouts by the built-in engine and by mlx_lm's batch_generate, on one model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.mac.models import FULL, TINY, policy_of, random_ids, write_model
from benchmarks.proof.recorder import Recorder

#: (rows, prompt, new tokens, bits)
CASES = ((8, 256, 128, None), (8, 256, 128, 4))
TINY_CASES = ((2, 8, 8, None),)


def measure(record: Recorder) -> None:
    """Both forms of every case, greedy."""
    import mlx.core as mx

    shape = TINY if record.tiny else FULL
    for rows, prompt, new, bits in TINY_CASES if record.tiny else CASES:
        weights = f"{bits} bits" if bits else "float32" if record.tiny else "bfloat16"
        prompts = [random_ids(shape["vocab_size"], prompt, row) for row in range(rows)]
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write_model(folder, shape, bits, "float32" if record.tiny else "bfloat16")
            forms = {"ours": ours(folder, rows), "mlx_lm batch_generate": theirs(folder)}
        for form, draw in forms.items():
            with record.attempt(case=f"{rows} × ({prompt} + {new}), {weights}", form=form) as row:
                draw(prompts, 2)  # compiles
                mx.clear_cache()
                mx.reset_peak_memory()
                start = time.perf_counter()
                tokens = draw(prompts, new)
                mx.synchronize()
                seconds = time.perf_counter() - start
                if tokens != rows * new:
                    raise RuntimeError(f"{tokens} tokens were drawn, not {rows * new}")
                row.update(time_s=seconds, tokens_per_second=tokens / seconds,
                           peak_gib=mx.get_peak_memory() / 2**30)  # fmt: skip


Draw = Callable[[list[tuple[int, ...]], int], int]
"""Draws at most so many new tokens after each prompt; gives how many were drawn in all."""


def ours(folder: Path, rows: int) -> Draw:
    """The built-in engine."""
    from backends.interface import RolloutRequest, Sampling

    policy = policy_of(folder, trainable=False, rollouts={"batch_size": rows})

    def draw(prompts: list[tuple[int, ...]], new: int) -> int:
        requests = [RolloutRequest(str(row), 0, ids, row) for row, ids in enumerate(prompts)]
        sampling = Sampling(temperature=0.0, max_new_tokens=new)
        return sum(len(one.completion_ids) for one in policy.generate(requests, sampling))

    return draw


def theirs(folder: Path) -> Draw:
    """mlx_lm's."""
    from mlx_lm import batch_generate, load

    model, tokenizer, *_ = load(str(folder))

    def draw(prompts: list[tuple[int, ...]], new: int) -> int:
        found = batch_generate(
            model, tokenizer, [list(ids) for ids in prompts], max_tokens=new, return_token_ids=True
        )
        return drawn(found)

    return draw


def drawn(found: Any) -> int:
    """Tokens of a `BatchResponse`, the stop tokens, which it leaves out, not counted."""
    return sum(len(ids) for ids in found.token_ids)
