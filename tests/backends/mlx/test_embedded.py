"""The embedded model on MLX and on PyTorch: the same steps from the same rollouts, the same words.

Slow to sample on MLX's CPU backend, so PyTorch draws what both learn from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import get
from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    LossBatch,
    PolicyGradientBatch,
    PolicyGradientItem,
    RolloutRequest,
    Sampling,
)
from opsd_cli.config.resolve import resolve
from opsd_cli.losses.divergence import DivergenceSpec
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder
from tests.support import oracle

pytest.importorskip("mlx_lm", exc_type=ImportError)
STEPS, ITEMS = 5, 4


def batches(divergence: bool) -> list[LossBatch]:
    """One batch per step: completions of the base's own on other problems each time."""
    config = resolve("embedded", [], {"backend": "cpu"})
    policy = get("cpu").load(config, trainable=False)
    problems = load_splits(config).train.problems[: STEPS * ITEMS]
    builder = PromptBuilder(config, policy.tokenizer)
    requests = [
        RolloutRequest(problem.id, 0, builder.student(problem).ids, seed)
        for seed, problem in enumerate(problems)
    ]
    drawn = {r.request.problem_id: r for r in policy.generate(requests, Sampling(1.0))}
    made: list[LossBatch] = []
    for start in range(0, len(problems), ITEMS):
        chosen = problems[start : start + ITEMS]
        rollouts = [drawn[problem.id] for problem in chosen]
        weight = 1 / sum(len(r.completion_ids) for r in rollouts)
        if divergence:
            items = tuple(
                DivergenceItem(
                    r.request.prompt_ids, builder.teacher(p).ids, r.completion_ids, weight
                )
                for p, r in zip(chosen, rollouts, strict=True)
            )
            made.append(DivergenceBatch(items, DivergenceSpec("reverse_kl")))
        else:
            graded = tuple(
                PolicyGradientItem(
                    r.request.prompt_ids,
                    r.completion_ids,
                    (1.0 if index % 2 else -0.5,) * len(r.completion_ids),
                    weight,
                    tuple(float(x) for x in r.log_probs),
                )
                for index, r in enumerate(rollouts)
            )
            made.append(PolicyGradientBatch(graded))
    return made


def learnt(name: str, start: Path, made: list[LossBatch], folder: Path) -> dict[str, Any]:
    """The adapter's weights after one step per batch."""
    config = resolve("embedded", [], {"backend": name})
    policy = get(name).load(config, trainable=True)
    policy.load_adapter(start)
    for batch in made:
        policy.accumulate(batch)
        policy.apply(config.optimizer.learning_rate)
    policy.save_adapter(folder)
    return oracle.weights(folder)


@pytest.mark.parametrize("divergence", [True, False], ids=["opsd", "grpo"])
def test_five_steps_equal_pytorchs(tmp_path: Path, divergence: bool) -> None:
    config = resolve("embedded", [], {"backend": "cpu"})
    get("cpu").load(config, trainable=True).save_adapter(tmp_path / "start")
    start = oracle.weights(tmp_path / "start")
    made = batches(divergence)
    wanted = learnt("cpu", tmp_path / "start", made, tmp_path / "cpu")
    found = learnt("mlx", tmp_path / "start", made, tmp_path / "mlx")
    moved = {name: wanted[name] - start[name] for name in wanted}
    assert max(float(np.abs(m).max()) for m in moved.values()) > 1e-3
    for name, weights in wanted.items():
        np.testing.assert_allclose(found[name], weights, rtol=0, atol=1e-3, err_msg=name)
    off = sum(float(((found[n] - w) ** 2).sum()) for n, w in wanted.items()) ** 0.5
    way = sum(float((m**2).sum()) for m in moved.values()) ** 0.5
    assert off < 1e-2 * way


def test_greedy_completions_equal_pytorchs() -> None:
    config = resolve("embedded", [], {"backend": "cpu"})
    problems = load_splits(config).test.problems[:12]
    words = {}
    for name in ("cpu", "mlx"):
        policy = get(name).load(config, trainable=False)
        builder = PromptBuilder(config, policy.tokenizer)
        requests = [RolloutRequest(p.id, 0, builder.student(p).ids, 0) for p in problems]
        drawn = policy.generate(requests, Sampling(temperature=0.0, max_new_tokens=80))
        words[name] = {r.request.problem_id: r.completion_ids for r in drawn}
    assert words["mlx"] == words["cpu"]
