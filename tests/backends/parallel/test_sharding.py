"""A base that the ranks divide among them trains the adapter that one process trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from backends.interface import Backend, LossBatch, Policy, RolloutRequest, Sampling
from backends.parallel.sharding import obstacle
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import ModelError, UsageError
from tests.support.ragged_batches import divergence_batch, gradient_batch, tokens
from tests.support.ranks import Loaded

#: One item leaves a rank without any; 33 and 9 cannot be shared evenly.
BATCHES: list[LossBatch] = [
    divergence_batch(33), divergence_batch(9, "live"), divergence_batch(7, "ema"),
    gradient_batch(5), divergence_batch(1),
]  # fmt: skip
EMA = {"weights": "ema", "ema_decay": 0.5}


@pytest.fixture(autouse=True)
def shards(backend: Backend) -> None:
    """Skips backends that cannot divide a base."""
    if not backend.traits.shards:
        pytest.skip(f"{backend.name} does not divide a base over devices")


def sharded(loaded: Loaded, size: int, reduce: str = "exact", **sections: Any) -> Any:
    train = {"shard": "full", **sections.pop("train", {})}
    return loaded(size, reduce, train=train, rollouts={"engine": "vllm"}, **sections)


def trained(policy: Policy, batches: Sequence[LossBatch], folder: Path) -> list[tuple[float, Any]]:
    """Losses and tokens of a step on each batch; the checkpoint is in the folder."""
    found = []
    for batch in batches:
        report = policy.accumulate(batch)
        policy.apply(1e-3)
        found.append((report.loss, (report.trained_tokens, report.teacher_tokens)))
    policy.save(folder)
    return found


def require_same(one: Path, other: Path) -> None:
    """Check that two checkpoints have the same adapter to 1e-5."""
    ours, theirs = (load_file(each / "adapter_model.safetensors") for each in (one, other))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], atol=1e-5, err_msg=name)


def held(policy: Any) -> tuple[int, int]:
    """Numbers of the base that rank 0 holds, and those of the whole base."""
    from backends.pytorch.sharding import local

    base = [p for p in policy._inner._model.parameters() if not p.requires_grad]
    return sum(local(p).numel() for p in base), sum(p.numel() for p in base)


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"dtype": "float32"}},
        {
            "train": {"dtype": "bfloat16", "gradient_checkpointing": True},
            "lora": {"dropout": 0.2},
        },
    ],
    ids=["float32", "bfloat16, dropout, activations recomputed"],
)
def test_a_sharded_base_gives_the_adapter_of_one_process(
    loaded: Loaded, sections: dict[str, Any], tmp_path: Path
) -> None:
    with loaded(1, teacher=EMA, **sections) as policy:
        alone = trained(policy, BATCHES, tmp_path / "alone")
    with sharded(loaded, 2, teacher=EMA, **sections) as policy:
        part, whole = held(policy)
        found = trained(policy, BATCHES, tmp_path / "sharded")
        description = policy.description
    for (loss, read), (expected, counted) in zip(found, alone, strict=True):
        assert loss == pytest.approx(expected, abs=1e-6)
        assert read == counted
    require_same(tmp_path / "sharded", tmp_path / "alone")
    assert part < 0.8 * whole
    assert "the base sharded; 2 ranks" in description


def test_a_checkpoint_of_a_sharded_base_goes_on_in_one_process(
    loaded: Loaded, tmp_path: Path
) -> None:
    with loaded(1) as policy:
        trained(policy, BATCHES[:2] * 2, tmp_path / "whole")
    with sharded(loaded, 2) as policy:
        trained(policy, BATCHES[:2], tmp_path / "half")
    with loaded(1) as policy:
        policy.restore(tmp_path / "half")
        trained(policy, BATCHES[:2], tmp_path / "rest")
    require_same(tmp_path / "rest", tmp_path / "whole")


def test_log_probabilities_and_measures_of_a_sharded_base(loaded: Loaded) -> None:
    """Three ranks divide nothing evenly, and one has nothing to score."""
    batch = divergence_batch(5, again=True)
    pairs = [(tokens(n, 3 + n), tokens(n, 1 + 2 * n)) for n in range(2)]
    found = []
    for policy_of in (lambda: loaded(1, "fast"), lambda: sharded(loaded, 3, "fast")):
        with policy_of() as policy:
            scores = [s.tolist() for s in policy.score(pairs)]
            loss = policy.measure(batch).loss
            first = policy.accumulate(batch)
            policy.apply(1e-3)
            second = policy.accumulate(batch)
            found.append((*scores[0], *scores[1], loss, first.loss, second.loss))
            assert second.teacher_tokens == 0
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


def test_what_a_sharded_base_cannot_do_is_refused_on_all_ranks(
    loaded: Loaded, tmp_path: Path
) -> None:
    with sharded(loaded, 2) as policy:
        with pytest.raises(UsageError, match="samples no rollouts"):
            list(policy.generate([RolloutRequest("p", 0, (3, 4), 0)], Sampling(max_new_tokens=2)))
        with pytest.raises(UsageError, match="cannot be merged"):
            policy.save_merged(tmp_path / "merged")
        with pytest.raises(ModelError, match="a prompt has no tokens"):
            policy.score([((), (5,)), ((5,), (6,))])
        assert len(policy.score([((5,), (6,))])[0]) == 1


def test_a_sharded_base_needs_an_engine_of_its_own(backend: Backend) -> None:
    config = resolve(None, (), {"backend": backend.name, "train": {"shard": "full"}})
    error = obstacle(config, backend.name)
    assert isinstance(error, UsageError)
    assert "rollouts.engine=builtin" in error.message
    assert error.hint.startswith("set rollouts.engine=vllm")
    config = resolve(None, ("rollouts.engine=vllm",), {"train": {"shard": "full"}})
    assert obstacle(config, backend.name) is None


def test_a_backend_that_cannot_divide_a_base_is_named() -> None:
    error = obstacle(resolve(None, ("rollouts.engine=vllm",)), "mlx")
    assert isinstance(error, UsageError)
    assert error.hint == "use cuda or cpu, or train.shard=none"
