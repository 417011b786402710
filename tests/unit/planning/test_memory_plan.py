"""The memory plan: sizes of its parts, and the settings it proposes if a run does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.mlx.traits import MLX
from backends.pytorch.traits import CPU, CUDA
from opsd_cli.config.resolve import assigned, resolve
from opsd_cli.config.schema import Config
from opsd_cli.planning.memory_plan import (
    MemoryPlan,
    Prompts,
    plan,
)
from opsd_cli.planning.model_shape import Shape, known_shape, shape_of
from opsd_cli.planning.smaller_settings import nearest_that_fits

GIB = 2**30
QWEN3 = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8}
SIZES = {
    "1.7B": {
        "num_hidden_layers": 28, "hidden_size": 2048, "intermediate_size": 6144,
        "num_attention_heads": 16, "tie_word_embeddings": True,
    },
    "4B": {
        "num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728,
        "num_attention_heads": 32, "tie_word_embeddings": True,
    },
    "8B": {
        "num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288,
        "num_attention_heads": 32, "tie_word_embeddings": False,
    },
}  # fmt: skip
FOUR_BITS = {"quantization": {"bits": 4, "group_size": 64}}


def shape(size: str, **extra: object) -> Shape:
    found = shape_of({**QWEN3, **SIZES[size], **extra})
    assert found is not None
    return found


@pytest.mark.parametrize(("size", "billions"), [("1.7B", 1.72), ("4B", 4.02), ("8B", 8.19)])
def test_shape_parameters_match_the_published_models(size: str, billions: float) -> None:
    assert shape(size).parameters == pytest.approx(billions * 1e9, rel=0.002)


def test_shape_parameters_match_the_embedded_model_s_file() -> None:
    from safetensors import safe_open

    from backends.shared.model_files import read_settings

    config = resolve()
    found = shape_of(read_settings(config.model_path, None))
    assert found is not None
    with safe_open(Path(config.model_path) / "model.safetensors", "np") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert found.parameters == sum(t.size for t in tensors if t.ndim > 1)


def test_quantised_weights_count_bits_and_group_scales() -> None:
    config = Config(train={"dtype": "float32"})
    prompts = Prompts(100, 200)
    full = plan(config, shape("1.7B"), prompts, MLX.memory, on_cpu=True).weights
    small = plan(config, shape("1.7B", **FOUR_BITS), prompts, MLX.memory, on_cpu=True).weights
    assert small / full == pytest.approx(4.5 / 32, rel=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {**QWEN3, **SIZES["4B"], "num_experts": 64}, {"hidden_size": 8, "vocab_size": 9}],
)
def test_shape_of_other_architectures_is_none(settings: dict[str, object]) -> None:
    assert shape_of(settings) is None


def peak(config: Config) -> int:
    return plan(config, shape("1.7B"), Prompts(256, 1024), MLX.memory, on_cpu=False).peak


def test_peak_grows_with_every_setting() -> None:
    config = Config()
    for key, more in (
        ("train.micro_batch_tokens", 65536),
        ("rollouts.batch_size", 512),
        ("lora.rank", 512),
        ("sampling.max_new_tokens", 8192),
    ):
        assert peak(assigned(config, key, more)) > peak(config), key
    assert peak(assigned(config, "train.gradient_checkpointing", True)) < peak(config)


def test_peak_with_loss_beside_all_activations_or_the_kept_ones() -> None:
    parts = {"weights": 1, "adapter": 2, "rollouts": 4, "activations": 20, "transient": 8}
    for divergence, together, learning in (
        (16, True, 20 + 16),
        (16, False, 20 - 8 + 16),
        (3, False, 20),  # the backward pass needs more than the loss did
    ):
        plan = MemoryPlan(**parts, divergence=divergence, together=together)
        assert plan.peak == 1 + 2 + learning
    assert CPU.memory.loss_beside_transients and CUDA.memory.loss_beside_transients
    assert not MLX.memory.loss_beside_transients


def test_nearest_settings_that_fit() -> None:
    config = Config()
    limit = 8 * GIB
    assert peak(config) > limit
    changes = nearest_that_fits(config, limit, peak)
    assert changes
    # Smaller batches and recomputed activations are enough, and do not change the training result.
    assert set(changes) <= {
        "train.micro_batch_tokens", "train.gradient_checkpointing", "rollouts.batch_size"
    }  # fmt: skip
    for key, value in changes.items():
        config = assigned(config, key, value)
    assert peak(config) <= limit


def test_nearest_settings_of_a_model_that_is_too_large_are_none() -> None:
    assert nearest_that_fits(Config(), 2 * GIB, peak) is None


@pytest.mark.parametrize(
    ("preset", "size", "bits", "gigabytes"),
    [
        ("mac-16gb", "1.7B", FOUR_BITS, 10.6),
        ("mac-32gb", "4B", FOUR_BITS, 21.3),
        ("mac-64gb", "4B", {}, 48.0),
        ("mac-128gb", "8B", {}, 96.0),
    ],
)
def test_mac_presets_fit_the_memory_of_the_gpu(
    preset: str, size: str, bits: dict[str, object], gigabytes: float
) -> None:
    """Limits: two thirds of the memory up to 32 GB, three quarters above; half must stay free."""
    for method in ("opsd", "grpo", "sft"):
        config = resolve(preset, [], {"method": method})
        assert size in config.model and ("4bit" in config.model) == bool(bits)
        longest = config.prompts.teacher.max_tokens
        assert longest is not None
        prompts = Prompts(longest // 2, longest)
        assert known_shape(config.model) == shape(size, **bits)
        found = plan(config, shape(size, **bits), prompts, MLX.memory, on_cpu=False)
        assert found.peak < gigabytes * GIB / 2, method


def test_sft_activations_count_the_reference() -> None:
    config = resolve("sft-qwen3-1.7b", ["train.gradient_checkpointing=false"])
    short, long = (
        plan(config, shape("1.7B"), Prompts(256, 256 + n), CPU.memory, on_cpu=True).activations
        for n in (512, 8192)
    )
    assert short > 0 and long < 2 * short  # micro-batches hold the same tokens either way
    one = resolve("sft-qwen3-1.7b", ["train.micro_batch_tokens=1024"])
    assert plan(one, shape("1.7B"), Prompts(256, 8192), CPU.memory, True).activations > 0


def test_known_shape_of_a_model_by_name() -> None:
    assert known_shape("Qwen/Qwen3-8B") == shape("8B")
    assert known_shape("mlx-community/Qwen3-4B-4bit") == shape("4B", **FOUR_BITS)
    assert known_shape("someone/else-4B") is None


def test_kl_anchor_of_several_passes_keeps_hidden_states_of_the_initial_policy() -> None:
    def divergence(*settings: str) -> int:
        config = resolve("opsd-qwen3-1.7b", list(settings))
        return plan(config, shape("1.7B"), Prompts(256, 512), CUDA.memory, False).divergence

    live = "teacher.weights=live"
    twice = "train.passes=2"
    anchors = ("train.anchor=kl", twice)
    assert divergence(live, *anchors[:1]) == divergence(live)
    config = resolve("opsd-qwen3-1.7b", [])
    tokens = config.train.questions_per_step * config.sampling.max_new_tokens
    one = tokens * shape("1.7B").hidden * 2
    assert divergence(live, *anchors) - divergence(live, twice) == one
    assert divergence(*anchors) - divergence(twice) == one  # beside those of the teacher
    assert divergence(twice) - divergence() == one
    none = (*anchors, "train.anchor_weight=0")
    assert divergence(live, *none) == divergence(live, twice)
