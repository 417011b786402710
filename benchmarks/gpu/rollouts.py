"""Rollouts by the built-in engine and by transformers' `generate`, on one model without adapter."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu.device import Device
from benchmarks.gpu.models import Work, random_ids, random_policy
from benchmarks.gpu.step import TINY
from benchmarks.proof.clock import best_seconds
from benchmarks.proof.recorder import Recorder

#: Rows, tokens of a prompt, new tokens. The short one first, and it warms up the long one.
CASES = ((8, 256, 128), (32, 256, 1024))
TINY_CASES = ((2, 8, 8),)
#: The published recipe's: temperature, top-p, top-k.
SAMPLING = (1.1, 0.95, 20)

Prompts = Sequence[tuple[int, ...]]
Draw = Callable[[Any, Prompts, int], int]
"""Draws so many new tokens after each prompt; gives how many were drawn in all."""


def measure(record: Recorder) -> None:
    """Both forms of every case, on the same weights."""
    device = Device()
    work = TINY if record.tiny else Work("Qwen3-1.7B", 32, 256, 1280, 1024, 16_384)
    policy = random_policy(device, work, work.config(), trainable=False)
    record.note(f"{policy.description}; temperature {SAMPLING[0]}, top-p {SAMPLING[1]}, "
                f"top-k {SAMPLING[2]}; no token stops")  # fmt: skip
    for rows, prompt, new in TINY_CASES if record.tiny else CASES:
        case = dataclasses.replace(work, rows=rows, student=prompt, completion=new)
        prompts = [random_ids(case.shape.vocabulary, prompt, row) for row in range(rows)]
        for form, draw in {"ours": ours, "transformers generate": theirs}.items():
            with record.attempt(case=f"{rows} × ({prompt} + {new:,})", form=form) as row:
                device.begin_peak()
                work_of_case = functools.partial(require, draw, policy, prompts, new)
                seconds = best_seconds(work_of_case, device.wait, repeats=1, warm=0)
                row.update(time_s=seconds, tokens_per_second=rows * new / seconds,
                           peak_gib=device.peak_gib())  # fmt: skip
            device.empty()


def require(draw: Draw, policy: Any, prompts: Prompts, new: int) -> None:
    """Draw, and refuse a form that has not drawn every token."""
    tokens = draw(policy, prompts, new)
    if tokens != len(prompts) * new:
        raise RuntimeError(f"{tokens} tokens were drawn, not {len(prompts) * new}")


def ours(policy: Any, prompts: Prompts, new: int) -> int:
    """Tokens drawn by the built-in engine."""
    from backends.interface import RolloutRequest, Sampling

    requests = [RolloutRequest(str(row), 0, ids, row) for row, ids in enumerate(prompts)]
    temperature, top_p, top_k = SAMPLING
    sampling = Sampling(temperature, top_p, top_k, max_new_tokens=new)
    return sum(len(rollout.completion_ids) for rollout in policy.generate(requests, sampling))


def theirs(policy: Any, prompts: Prompts, new: int) -> int:
    """Tokens drawn by `generate`, on the same model object."""
    import torch

    model = policy._model
    ids = torch.tensor(prompts, device=model.device)
    temperature, top_p, top_k = SAMPLING
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=temperature,
            top_p=top_p, top_k=top_k, max_new_tokens=new, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return int(out[:, ids.shape[1] :].numel())
