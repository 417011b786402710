"""What is alive at once: MLX is lazy, and a careless order of evaluation keeps everything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from backends import get
from backends.interface import DivergenceBatch, DivergenceItem
from opsd_cli.config.schema import Config
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support import tiny_models

mx = pytest.importorskip("mlx.core", exc_type=ImportError)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_loss_memory_is_that_of_one_chunk(kind: str) -> None:
    from mlx import nn

    from backends.mlx.loss_head import chunked_divergence
    from backends.mlx.split_model import Head

    tokens, chunk, vocabulary, width = 64, 8, 20_000, 16
    layer = nn.Linear(width, vocabulary, bias=False)
    student_ND = mx.random.normal((tokens, width))
    teacher_ND = mx.random.normal((tokens, width))
    mx.eval(layer.parameters(), student_ND, teacher_ND)
    head = Head(layer, vocabulary, None, 1.0)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    found = chunked_divergence(
        head, student_ND, teacher_ND, DivergenceSpec(kind), True, chunk  # type: ignore[arg-type]
    )  # fmt: skip
    mx.eval(found.jacobian_ND)
    arrays = (mx.get_peak_memory() - before) / (4 * chunk * vocabulary)
    assert arrays < 8  # the whole would be 8 chunks of each


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A model of many narrow blocks."""
    ids = tiny_models.build_tokenizer(tmp_path, pad_is_end=False)
    torch.manual_seed(0)
    Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=ids, hidden_size=32, intermediate_size=64, num_hidden_layers=12,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
            eos_token_id=0, tie_word_embeddings=True,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    return tmp_path


BATCH = DivergenceBatch(
    tuple(DivergenceItem((5,) * 32, (6,) * 32, (7,) * 32) for _ in range(4)),
    DivergenceSpec("jsd"),
)


def config_of(folder: Path, checkpointing: bool) -> Config:
    return Config(
        model=str(folder),
        lora={"rank": 2, "alpha": 4},
        sampling={"max_new_tokens": 32},
        rollouts={"batch_size": 4},
        train={
            "gradient_checkpointing": checkpointing,
            "dtype": "float32",
            "questions_per_step": 4,
        },
    )


def peak_of(config: Config) -> int:
    policy = get("mlx").load(config, True)
    mx.clear_cache()
    mx.reset_peak_memory()
    policy.accumulate(BATCH)
    policy.apply(1e-3)
    return int(mx.get_peak_memory())


def test_gradient_checkpointing_frees_activations(deep: Path) -> None:
    peaks = [peak_of(config_of(deep, checkpointing)) for checkpointing in (False, True)]
    # Two of twelve blocks' worth at most, and what does not depend on depth.
    assert peaks[1] < 0.5 * peaks[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_plan_equals_the_measured_peak(deep: Path, checkpointing: bool) -> None:
    from backends.mlx.traits import MLX
    from backends.shared.model_files import read_settings
    from opsd_cli.planning.memory_plan import Prompts, plan
    from opsd_cli.planning.model_shape import shape_of

    config = config_of(deep, checkpointing)
    shape = shape_of(read_settings(str(deep), None))
    assert shape is not None
    planned = plan(config, shape, Prompts(32, 32), MLX.memory, on_cpu=True).peak
    assert planned == pytest.approx(peak_of(config), rel=0.25)


def test_allocator_cache_is_bounded() -> None:
    from backends.mlx import device_memory

    device_memory.set_limits()
    before = mx.set_cache_limit(device_memory._CACHE_LIMIT)
    assert before == device_memory._CACHE_LIMIT
