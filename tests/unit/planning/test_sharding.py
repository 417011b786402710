"""`train.shard`: what `auto` means for a number of devices, and the plan of a divided base."""

from __future__ import annotations

from typing import Any

import pytest

import backends
from backends.interface import Capability
from backends.pytorch.traits import CUDA
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError
from opsd_cli.planning import sharding
from opsd_cli.planning.memory_plan import Prompts, plan
from opsd_cli.planning.model_shape import Shape
from opsd_cli.planning.planned_device import PlannedDevice, planned_device
from opsd_cli.planning.planned_memory import PlannedMemory, planned_memory
from opsd_cli.tracking.listener import Listener

GIB = 2**30
#: Llama 3.1 70B's.
SHAPE = Shape(
    layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128,
    vocabulary=128256, tied=False,
)  # fmt: skip


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs of 80 GiB, and a model of 70B."""
    device = PlannedDevice("cuda", CUDA.memory, 80 * GIB, on_cpu=False)
    for module in ("sharding", "planned_memory"):
        monkeypatch.setattr(
            f"opsd_cli.planning.{module}.planned_device", lambda config, devices=1: device
        )
        monkeypatch.setattr(f"opsd_cli.planning.{module}.configured_shape", lambda config: SHAPE)


def config_of(*settings: str) -> Config:
    return resolve(None, ("rollouts.engine=vllm", "prompts.teacher.max_tokens=2048", *settings))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("settings", "devices", "shard"),
    [
        ((), 8, "full"),
        ((), 1, "none"),
        (("train.shard=none",), 8, "none"),
        (("train.shard=full",), 1, "full"),
        (("rollouts.engine=builtin",), 8, "none"),
    ],
    ids=["does not fit", "one device", "none", "full", "an engine that cannot"],
)
def test_shard_auto_of_a_config(settings: tuple[str, ...], devices: int, shard: str) -> None:
    assert sharding.with_shard_decided(config_of(*settings), devices).train.shard == shard


def test_shard_auto_is_none_where_one_device_suffices(
    gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = PlannedDevice("cuda", CUDA.memory, 400 * GIB, on_cpu=False)
    monkeypatch.setattr(
        "opsd_cli.planning.sharding.planned_device", lambda config, devices=1: large
    )
    assert sharding.with_shard_decided(config_of(), 8).train.shard == "none"


def _capable(monkeypatch: pytest.MonkeyPatch, found: Capability) -> None:
    """A model of 70B, on a CPU that has been found so."""
    monkeypatch.setattr(type(backends.get("cpu")), "capability", lambda self: found)
    monkeypatch.setattr("opsd_cli.planning.sharding.configured_shape", lambda config: SHAPE)


@pytest.mark.parametrize(("devices", "shard"), [(1, "none"), (2, "none"), (8, "full")])
def test_shard_auto_where_processes_share_a_machine_s_memory(
    monkeypatch: pytest.MonkeyPatch, devices: int, shard: str
) -> None:
    _capable(monkeypatch, Capability(True, "a processor", memory=1600 * GIB))
    config = config_of("backend=cpu")
    assert sharding.with_shard_decided(config, devices).train.shard == shard


def test_planned_device_of_processes_on_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one machine share its memory; GPUs share none."""
    _capable(monkeypatch, Capability(True, "a processor", memory=64 * GIB))
    config = config_of("backend=cpu")
    assert planned_device(config, 4).limit == 16 * GIB
    for name, value in (("RANK", 0), ("WORLD_SIZE", 4), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    assert planned_device(config, 4).limit == 32 * GIB
    gpu = Capability(True, "a GPU", memory=64 * GIB, on_cpu=False, devices=4)
    _capable(monkeypatch, gpu)
    assert planned_device(config, 4).limit == 64 * GIB


def test_memory_plan_of_a_divided_base() -> None:
    """A device holds embedding and head, its part of the layers, and three gathered layers."""

    def weights(parts: int) -> float:
        return plan(config_of(), SHAPE, Prompts(512, 2048), CUDA.memory, False, parts).weights

    ends = 2 * 2 * SHAPE.vocabulary * SHAPE.hidden
    layers = weights(1) - ends
    assert weights(8) == pytest.approx(ends + layers * (1 / 8 + 3 / 80), rel=1e-6)


@pytest.mark.usefixtures("gpus")
def test_planned_memory_says_how_the_base_is_held() -> None:
    def found(devices: int) -> dict[str, Any]:
        memory = planned_memory(config_of(), None, Listener(), devices)
        assert isinstance(memory, PlannedMemory)
        return memory.as_dict()

    one, eight = found(1), found(8)
    assert (one["devices"], one["shard"]) == (1, "none")
    assert (eight["devices"], eight["shard"]) == (8, "full")
    assert eight["parts"]["weights"] < one["parts"]["weights"] / 4
    assert eight["parts"]["activations"] == one["parts"]["activations"]


ANALYSES = "teacher.reason_first=true"


@pytest.mark.parametrize(
    ("settings", "size", "hint"),
    [
        ((ANALYSES, "teacher.weights=ema"), 2, "teacher.weights=initial or live"),
        ((ANALYSES, "adapter=some"), 2, "teacher.weights=live"),
        (("teacher.weights=ema",), 2, None),
        (("adapter=some",), 2, None),
        ((ANALYSES,), 2, None),
        ((ANALYSES, "teacher.weights=live", "adapter=some"), 2, None),
        ((ANALYSES, "teacher.weights=ema"), 1, None),
        ((ANALYSES, "teacher.weights=ema", "train.shard=none"), 2, None),
        ((ANALYSES, "teacher.weights=ema", "method=grpo"), 2, None),
    ],
)
def test_a_teacher_whose_analyses_a_divided_base_would_sample(
    settings: tuple[str, ...], size: int, hint: str | None
) -> None:
    config = config_of("train.shard=full", *settings)
    if hint is None:
        sharding.require_teacher_engine(config, size)
        return
    with pytest.raises(UsageError, match="samples its analyses") as refused:
        sharding.require_teacher_engine(config, size)
    assert hint in refused.value.hint


@pytest.mark.usefixtures("gpus")
def test_shard_auto_is_none_where_the_trainer_samples_a_teacher_s_analyses() -> None:
    config = config_of(ANALYSES, "teacher.weights=ema")
    assert sharding.with_shard_decided(config, 8).train.shard == "none"


def test_memory_plan_counts_a_cache_where_the_trainer_samples() -> None:
    """A vLLM server has the cache of rollouts and evaluations, but not of an EMA teacher's."""

    def cache(*settings: str) -> int:
        return plan(config_of(*settings), SHAPE, Prompts(512, 2048), CUDA.memory, False).rollouts

    assert cache() == cache(ANALYSES) == cache("teacher.weights=ema") == 0
    analyses = cache(ANALYSES, "teacher.weights=ema")
    assert analyses == cache(ANALYSES, "adapter=some") > 0
    assert cache(ANALYSES, "teacher.weights=ema", "method=grpo") == 0
    same = 2048 - 512  # a builtin engine's rollouts that are as long
    length = f"sampling.max_new_tokens={same + resolve().teacher.analysis_tokens}"
    assert cache("rollouts.engine=builtin", length, "evaluation.max_new_tokens=null") == analyses
