"""Two real vLLM servers, run with the interpreter that `OPSD_VLLM_PYTHON` names.

OPSD_VLLM_PYTHON=v/bin/python pytest -n 0 tests/backends/vllm/test_real_replicas.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import backends
from backends.interface import PolicyGradientBatch, PolicyGradientItem, RolloutRequest, Sampling
from backends.vllm.policy import VllmPolicy
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import TrainingError
from opsd_cli.problems.sources import embedded
from opsd_cli.prompts.builder import PromptBuilder

PYTHON = os.environ.get("OPSD_VLLM_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="OPSD_VLLM_PYTHON names no interpreter")
PROMPTS = 24
GREEDY = Sampling(temperature=0.0, max_new_tokens=60)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmPolicy]:
    """A policy with two servers, after a step so large that a missing adapter changes tokens."""
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    config = resolve(
        None,
        [
            f"rollouts.vllm.python={PYTHON}", "rollouts.vllm.replicas=2", "rollouts.engine=vllm",
            "train.dtype=float32", "lora.rank=8", "backend=cpu",
        ],
    )  # fmt: skip
    inner = backends.get("cpu").load(config, trainable=True)
    policy = VllmPolicy(config, inner, tmp_path_factory.mktemp("servers"))
    items = tuple(
        PolicyGradientItem(request.prompt_ids, (20 + n % 7, 31), (1.0, -1.0), 0.1)
        for n, request in enumerate(requests(policy))
    )
    inner.accumulate(PolicyGradientBatch(items))
    policy.apply(0.02)
    yield policy
    policy.close()
    patch.undo()


def requests(policy: VllmPolicy) -> list[RolloutRequest]:
    config = resolve(None, ["backend=cpu"])
    builder = PromptBuilder(config, policy.tokenizer, policy.context_limit)
    problems = embedded("test", PROMPTS).problems
    return [RolloutRequest(str(n), 0, builder.student(p).ids, n) for n, p in enumerate(problems)]


def drawn(policy: VllmPolicy) -> dict[str, tuple[int, ...]]:
    found = policy.generate(requests(policy), GREEDY)
    return {rollout.request.problem_id: rollout.completion_ids for rollout in found}


def test_two_vllm_servers_draw_what_the_builtin_engine_draws(adapted: VllmPolicy) -> None:
    inner = adapted._inner
    mine = {
        r.request.problem_id: r.completion_ids for r in inner.generate(requests(adapted), GREEDY)
    }
    theirs = drawn(adapted)
    # Rounding may decide a greedy tie either way.
    assert sum(mine[key] == theirs[key] for key in mine) >= PROMPTS - 1
    for replica in adapted._pool.replicas:
        metrics = replica.client.copy()
        assert metrics.alive(5.0)
        assert replica.answer_N is not None


def test_a_vllm_server_that_loses_the_adapter_draws_nothing_without_it(
    adapted: VllmPolicy,
) -> None:
    before = drawn(adapted)
    loser = adapted._pool.replicas[1]
    loser.client.unload_adapter(loser._loaded, None)
    losses = loser.losses
    assert drawn(adapted) == before
    assert loser.losses == losses + 1
    assert drawn(adapted) == before


def test_a_vllm_server_with_other_weights_under_the_adapters_name_is_refused(
    adapted: VllmPolicy, tmp_path: Path
) -> None:
    drawn(adapted)
    name = adapted._files.newest()
    liar = adapted._pool.replicas[1]
    untrained = backends.get("cpu").load(resolve(None, ["lora.rank=8", "backend=cpu"]), True)
    untrained.save(tmp_path / "untrained")
    liar.client.unload_adapter(name, None)
    liar.client.load_adapter(name, str(tmp_path / "untrained"))
    # What a load does that reaches another process than the one that samples.
    liar.answer_N = None
    with pytest.raises(TrainingError, match=f"{liar.client.url}"):
        drawn(adapted)
