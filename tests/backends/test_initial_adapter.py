"""Conformance: a new adapter's weights depend on the run's seed and on the layer's name alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import backends
from opsd_cli.config.schema import Config
from opsd_cli.seeds import derive_seed
from tests.support import oracle
from tests.support.backend_fixtures import LORA, Load

SUFFIX = ".lora_A.weight"


def drawn(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A layer's A in float64, from the same stream."""
    path = name.removeprefix("base_model.model.").removesuffix(SUFFIX)
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "lora_A", path)))
    uniform = generator.random(shape, np.float32).astype(np.float64)
    return (2 * uniform - 1) / math.sqrt(shape[1])


@pytest.mark.parametrize(
    ("family", "variant"),
    [("qwen3", {}), ("llama", {"dora": True}), ("gemma3", {"rank": 5, "rslora": True})],
    ids=str,
)
def test_new_adapter_is_what_seed_and_layer_give(
    load: Load, tmp_path: Path, family: str, variant: dict
) -> None:
    load(family, lora=variant, seed=7).save_adapter(tmp_path)
    weights = oracle.weights(tmp_path)
    layers = [name for name in weights if name.endswith(SUFFIX)]
    assert layers
    for name in layers:
        assert weights[name].dtype == np.float32
        wanted = drawn(7, name, weights[name].shape)
        np.testing.assert_allclose(weights[name], wanted, rtol=2e-7, err_msg=name)
        assert not weights[name.replace("lora_A", "lora_B")].any()


@pytest.mark.parametrize("variant", [{}, {"dora": True}], ids=["lora", "dora"])
def test_new_adapter_is_the_same_on_every_backend(
    model_folder: Callable[[str], Path], tmp_path: Path, variant: dict
) -> None:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, backend in ((name, backends.get(name)) for name in ("cpu", "mlx")):
        if not backend.capability().available:
            pytest.skip(f"{name} is not here")
        config = Config(
            model=str(model_folder("llama")),
            seed=7,
            lora=LORA | variant,
            train={"dtype": "float32"},
        )
        backend.load(config, trainable=True).save_adapter(tmp_path / name)
        found[name] = oracle.weights(tmp_path / name)
    assert found["cpu"].keys() == found["mlx"].keys()
    for name, array in found["cpu"].items():
        if "magnitude" in name:  # the norm of the base's weights, summed in another order
            np.testing.assert_allclose(found["mlx"][name], array, rtol=1e-6)
        else:
            np.testing.assert_array_equal(found["mlx"][name], array, err_msg=name)


def test_new_adapter_of_a_layer_does_not_depend_on_the_other_targets(
    load: Load, tmp_path: Path
) -> None:
    load().save_adapter(tmp_path / "all")
    load(lora={"targets": ["up_proj"]}).save_adapter(tmp_path / "one")
    every, one = oracle.weights(tmp_path / "all"), oracle.weights(tmp_path / "one")
    assert one and one.keys() < every.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, every[name])


def test_new_adapter_differs_between_seeds_and_layers(load: Load, tmp_path: Path) -> None:
    for seed in (7, 8):
        load(seed=seed).save_adapter(tmp_path / str(seed))
    one, other = (
        {name: a for name, a in oracle.weights(tmp_path / seed).items() if name.endswith(SUFFIX)}
        for seed in ("7", "8")
    )
    rows = [array.ravel()[:8].tobytes() for array in (*one.values(), *other.values())]
    assert len(set(rows)) == len(rows) == 2 * len(one)


def test_new_adapter_has_the_distribution_of_peft(
    model_folder: Callable[[str], Path], load: Load, tmp_path: Path
) -> None:
    """The same bounds and variance as PEFT's own draw, by layer."""
    rank = 400
    load(lora={"rank": rank}).save_adapter(tmp_path)
    ours = oracle.weights(tmp_path)
    torch.manual_seed(0)
    config = LoraConfig(r=rank, target_modules=list(LORA["targets"]))
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder("qwen3")), config)
    theirs = {
        name.replace(".default", ""): parameter.detach().numpy()
        for name, parameter in peft.named_parameters()
        if "lora_A" in name
    }
    assert theirs.keys() == {name for name in ours if name.endswith(SUFFIX)}
    for name, array in theirs.items():
        bound = 1 / math.sqrt(array.shape[1])
        for draw in (array, ours[name]):
            assert 0.99 * bound < np.abs(draw).max() <= bound
            assert draw.var() == pytest.approx(bound**2 / 3, rel=0.05)
            assert abs(draw.mean()) < 0.05 * bound
