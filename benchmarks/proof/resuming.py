"""A run that is stopped and resumed against one that is not: adapter, optimiser and rollouts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.proof.recorder import Recorder

RATE = 1e-3
FILES = ("adapter_model.safetensors", "optimizer.safetensors")


def compare(
    record: Recorder, what: str, load: Callable[[], Any], batch: Any, row: dict[str, Any]
) -> None:
    """Three steps against two, a checkpoint, a new policy and one more.

    Args:
        record: of the section.
        what: the case, for the checks.
        load: makes a policy; the same one each time.
        batch: learnt from at every step.
        row: filled with what was compared.
    """
    with tempfile.TemporaryDirectory() as made:
        whole, stopped, resumed = (Path(made) / name for name in ("whole", "stopped", "resumed"))
        for folder in (whole, stopped, resumed):
            folder.mkdir()
        policy = load()
        for number in range(3):
            step(policy, batch)
            if number == 1:
                policy.save(stopped)
        policy.save(whole)
        drawn = rollouts(policy, batch)
        again = load()
        again.restore(stopped)
        step(again, batch)
        again.save(resumed)
        for name in FILES:
            same, gap = compared(whole / name, resumed / name)
            row[name.partition(".")[0].replace("_model", "")] = "the same bits" if same else gap
            record.check(f"a resumed run has the same {name}: {what}", same, largest_gap=gap)
    record.check(f"and draws the same rollouts: {what}", rollouts(again, batch) == drawn)
    row["rollouts"] = len(drawn)


def step(policy: Any, batch: Any) -> None:
    """One step on the batch."""
    policy.accumulate(batch)
    policy.apply(RATE)


def rollouts(policy: Any, batch: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Completions of the batch's student prompts."""
    from backends.interface import RolloutRequest, Sampling

    requests = [
        RolloutRequest(str(number), 0, item.student_prompt, number)
        for number, item in enumerate(batch.items)
    ]
    drawn = policy.generate(requests, Sampling(max_new_tokens=8))
    return sorted((one.request.problem_id, one.completion_ids) for one in drawn)


def compared(first: Path, second: Path) -> tuple[bool, float]:
    """Whether two safetensors files hold the same bits, and their largest difference."""
    import numpy as np
    from safetensors.numpy import load_file

    own, other = load_file(first), load_file(second)
    if own.keys() != other.keys():
        return False, float("inf")
    same, gap = True, 0.0
    for name, array in own.items():
        if array.tobytes() != other[name].tobytes():
            same = False
            difference = np.abs(array.astype(np.float64) - other[name].astype(np.float64))
            gap = max(gap, float(difference.max()))
    return same, gap
