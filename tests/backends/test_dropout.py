"""Conformance: dropout depends on seed, update, item, layer, position and channel alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import backends
from backends.interface import (
    DivergenceBatch,
    LossBatch,
    Policy,
    PolicyGradientBatch,
    PolicyGradientItem,
)
from backends.shared.dropout import DropoutRows, row_seeds
from opsd_cli.config.schema import Config
from opsd_cli.errors import TrainingError
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support import oracle
from tests.support.backend_fixtures import LORA, Load
from tests.support.dropout_masks import kept
from tests.support.loss_batches import ITEMS

PATH = "model.layers.0.self_attn.q_proj"
DIVERGENCE = DivergenceBatch(ITEMS, DivergenceSpec("jsd"))
POLICY_GRADIENT = PolicyGradientBatch(
    tuple(
        PolicyGradientItem(i.student_prompt, i.completion, (0.7,) * len(i.completion), i.weight)
        for i in ITEMS
    )
)
BATCHES = pytest.mark.parametrize(
    "batch", [DIVERGENCE, POLICY_GRADIENT], ids=["divergence", "policy_gradient"]
)
Gradient = dict[str, np.ndarray]


def masks(
    backend: str, probability: float, seeds_B: np.ndarray, length: int, width: int, path: str = PATH
) -> np.ndarray:
    """The outputs [B, L, D] of a backend's dropout on ones."""
    rows = DropoutRows()
    ones = np.ones((len(seeds_B), length, width), np.float32)
    with rows.of(seeds_B, length):
        if backend == "mlx":
            mx = pytest.importorskip("mlx.core", exc_type=ImportError)
            from backends.mlx.dropout import ItemDropout as MlxDropout

            return np.array(MlxDropout(probability, path, rows)(mx.array(ones)))
        import torch

        from backends.pytorch.dropout import ItemDropout as TorchDropout

        return TorchDropout(probability, path, rows)(torch.from_numpy(ones)).numpy()


def gradient(policy: Policy, batch: LossBatch, adapter: Path, folder: Path) -> Gradient:
    policy.load_adapter(adapter)
    policy.accumulate(batch)
    return oracle.gradient(policy, folder)


def assert_same(found: Gradient, wanted: Gradient) -> None:
    oracle.assert_close(found, wanted, 1e-5)


def differ(one: Gradient, other: Gradient) -> bool:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one) > 1e-3


@pytest.mark.parametrize("library", ["cpu", "mlx"])
def test_dropout_mask_equals_the_scalar_definition(library: str) -> None:
    """In layers of several widths, one after another."""
    probability, items = 0.3, (0, 5, 7)
    for length, width in ((6, 9), (6, 5), (2, 14)):
        found = masks(library, probability, row_seeds(11, 4, items), length, width)
        wanted = kept(probability, 11, 4, items, PATH, length, width)
        np.testing.assert_allclose(found, wanted / 0.7, rtol=1e-6)


@pytest.mark.parametrize("library", ["cpu", "mlx"])
@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_dropout_keeps_its_share_and_no_two_masks_are_alike(
    library: str, probability: float
) -> None:
    """Rows, layers and updates: each share within five standard deviations, and each pair of
    masks agrees as often as independent ones do."""
    length, width = 40, 100
    drawn = [
        mask > 0
        for update, path in ((0, PATH), (1, PATH), (0, PATH.replace("q_proj", "v_proj")))
        for mask in masks(library, probability, row_seeds(3, update, (0, 1)), length, width, path)
    ]
    count = length * width
    spread = 5 * math.sqrt(probability * (1 - probability) / count)
    for mask in drawn:
        assert abs(mask.mean() - (1 - probability)) < spread
        # Neither a position nor a channel is favoured.
        assert abs(mask.mean(1) - (1 - probability)).max() < spread * math.sqrt(length)
        assert abs(mask.mean(0) - (1 - probability)).max() < spread * math.sqrt(width)
    alike = probability**2 + (1 - probability) ** 2
    for place, one in enumerate(drawn):
        for other in drawn[:place]:
            agreed = float((one == other).mean())
            assert abs(agreed - alike) < 5 * math.sqrt(alike * (1 - alike) / count)


@BATCHES
def test_dropout_gradient_does_not_depend_on_micro_batches_or_checkpointing(
    load: Load, adapter_folder: Callable[..., Path], tmp_path: Path, batch: LossBatch
) -> None:
    adapter, found = adapter_folder(), []
    for place, train in enumerate(
        ({}, {"micro_batch_tokens": 1}, {"micro_batch_tokens": 24, "gradient_checkpointing": True})
    ):
        policy = load(lora={"dropout": 0.4}, train=train)
        found.append(gradient(policy, batch, adapter, tmp_path / str(place)))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])
    assert differ(gradient(load(), batch, adapter, tmp_path / "without"), found[0])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_dropout_gradient_is_the_same_on_every_backend(
    model_folder: Callable[[str], Path],
    adapter_folder: Callable[..., Path],
    tmp_path: Path,
    family: str,
) -> None:
    adapter, found = adapter_folder(family), []
    for name in ("cpu", "mlx"):
        if not backends.get(name).capability().available:
            pytest.skip(f"{name} is not here")
        config = Config(
            model=str(model_folder(family)),
            lora=LORA | {"dropout": 0.4},
            optimizer={"betas": (0.0, 0.999), "max_grad_norm": 1e9},
            train={"dtype": "float32"},
        )
        policy = backends.get(name).load(config, trainable=True)
        found.append(gradient(policy, DIVERGENCE, adapter, tmp_path / name))
    oracle.assert_close(found[1], found[0])


def test_dropout_differs_between_updates_and_seeds(
    load: Load, adapter_folder: Callable[..., Path], tmp_path: Path
) -> None:
    adapter, policy = adapter_folder(), load(lora={"dropout": 0.4})
    first = gradient(policy, DIVERGENCE, adapter, tmp_path / "1")
    second = gradient(policy, DIVERGENCE, adapter, tmp_path / "2")
    other = load(lora={"dropout": 0.4}, seed=9)
    assert differ(first, second)
    assert differ(first, gradient(other, DIVERGENCE, adapter, tmp_path / "3"))


def test_checkpoint_with_a_generators_state_restores(load: Load, tmp_path: Path) -> None:
    """Checkpoints of versions whose dropout had a random generator; new ones have no such state."""
    policy = load(lora={"dropout": 0.4})
    policy.accumulate(DIVERGENCE)
    policy.apply(0.05)
    policy.save(tmp_path)
    path = tmp_path / "optimizer.safetensors"
    state: dict[str, Any] = load_file(path)
    assert not any(name.startswith("random.") for name in state)
    wanted = policy.accumulate(DIVERGENCE).loss
    old = {"random.cpu": np.arange(8, dtype=np.uint8), "random.mlx": np.arange(2, dtype=np.uint32)}
    save_file(state | old, path)
    restored = load(lora={"dropout": 0.4})
    restored.restore(tmp_path)
    assert restored.accumulate(DIVERGENCE).loss == wanted


def test_dropout_refuses_rows_that_it_cannot_place() -> None:
    rows = DropoutRows()
    with rows.of(row_seeds(0, 0, (0, 1)), 5):
        assert rows.positions((2, 8, 16), PATH) == 8  # padded
        assert rows.positions((10, 16), PATH) == 5  # flattened
        for shape in ((7, 16), (3, 5, 16), (2, 5, 4, 4)):
            with pytest.raises(TrainingError, match="cannot tell which tokens") as caught:
                rows.positions(shape, PATH)
            assert "lora.targets" in caught.value.hint
