"""Random models for MLX, written to a folder by mlx-lm itself: PyTorch is not needed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

#: Of a model that is small on Metal and on a CPU alike.
TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 640,
    "tie_word_embeddings": True,
}  # fmt: skip
#: Of Qwen3-0.6B, at which steps and rollouts are measured on Metal.
FULL: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
    "tie_word_embeddings": True,
}  # fmt: skip
GROUP = 64
#: Special tokens of the tokenizer, which have the first ids.
SPECIAL = 3


def write_model(
    folder: Path, settings: dict[str, Any], bits: int | None = None, dtype: str = "float32"
) -> None:
    """Write a Qwen3 of random weights, from seed 0, with a tokenizer.

    Args:
        folder: where it is written.
        settings: of its config.json, those of its shape.
        bits: of quantised weights; None for `dtype`.
        dtype: of weights that are not quantised, and of scales.
    """
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.models.qwen3 import Model, ModelArgs
    from mlx_lm.utils import quantize_model, save_config, save_model

    from benchmarks.random_models import write_tokenizer

    write_tokenizer(folder, pad_is_end=True)
    full = {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0, "max_position_embeddings": 40_960, "eos_token_id": 0,
        "bos_token_id": None, "pad_token_id": None, "dtype": dtype, **settings,
    }  # fmt: skip
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(full))
    model.update(tree_map(functools.partial(_random, getattr(mx, dtype)), model.parameters()))
    if bits is not None:
        model, full = quantize_model(model, full, GROUP, bits)
    save_model(folder, model, donate_model=True)
    save_config(full, folder / "config.json")


def _random(dtype: Any, array: Any) -> Any:
    """As transformers initialises: norms are 1, matrices have a deviation of 0.02.

    The first rows are zero: those of the special tokens in the head, which greedy decoding then
    never draws.
    """
    import mlx.core as mx

    if array.ndim == 1:
        return mx.ones(array.shape, dtype)
    made = (0.02 * mx.random.normal(array.shape)).astype(dtype)
    made[:SPECIAL] = 0
    return made


def random_ids(vocabulary: int, length: int, seed: int) -> tuple[int, ...]:
    """Token ids, none of them special."""
    return tuple(np.random.default_rng(seed).integers(4, vocabulary, length).tolist())


def batch_of(
    vocabulary: int, rows: int, student: int, teacher: int, completion: int, kind: Any = "jsd"
) -> Any:
    """Random completions under both prompts."""
    from backends.interface import DivergenceBatch, DivergenceItem
    from opsd_cli.losses.divergence import DivergenceSpec

    weight = 1 / (rows * completion)
    items = (
        DivergenceItem(
            random_ids(vocabulary, student, 3 * row), random_ids(vocabulary, teacher, 3 * row + 1),
            random_ids(vocabulary, completion, 3 * row + 2), weight,
        )
        for row in range(rows)
    )  # fmt: skip
    return DivergenceBatch(tuple(items), DivergenceSpec(kind))


def policy_of(folder: Path, trainable: bool = True, **sections: Any) -> Any:
    """A policy on MLX; keyword arguments are sections of the config."""
    import backends
    from opsd_cli.config.schema import Config

    given = {"lora": {"rank": 16, "alpha": 32}, **sections}
    return backends.get("mlx").load(
        Config.model_validate({"model": str(folder), **given}), trainable
    )
