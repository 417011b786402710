"""Policies at the shape of real models, with random weights that are made on the device.

Nothing of the size of a model touches the disk: only a tokenizer does.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.device import Device

#: The published recipe's.
LORA = {"rank": 64, "alpha": 128}
_QWEN3 = {
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
    "max_position_embeddings": 40_960, "num_attention_heads": 16,
}  # fmt: skip
#: Settings of `transformers.Qwen3Config` by the name of the shape.
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-1.7B": {
        **_QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "tie_word_embeddings": True,
    },
    "Qwen3-8B": {
        **_QWEN3, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "tie_word_embeddings": False,
    },
    "tiny": {
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 600, "num_attention_heads": 4,
        "max_position_embeddings": 512, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What a step learns from.

    Attributes:
        model: a name in `MODELS`.
        rows: completions.
        student: tokens of the student's prompt.
        teacher: tokens of the teacher's, which holds the solution.
        completion: tokens of a completion.
        micro_batch: padded tokens of a micro-batch.
    """

    model: str
    rows: int
    student: int
    teacher: int
    completion: int
    micro_batch: int

    def config(self, lora: Mapping[str, Any] = LORA, **train: Any) -> Any:
        """The config of its run; keyword arguments are settings of `train`."""
        from opsd_cli.config.schema import Config

        return Config.model_validate({
            "model": str(tokenizer_folder()),
            "lora": dict(lora),
            "sampling": {"max_new_tokens": self.completion},
            "rollouts": {"batch_size": self.rows},
            "train": {
                "questions_per_step": self.rows, "micro_batch_tokens": self.micro_batch, **train
            },
        })  # fmt: skip

    @property
    def shape(self) -> Any:
        """As the memory plan reads it."""
        from opsd_cli.planning.model_shape import shape_of

        return shape_of(MODELS[self.model])

    def planned(self, device: Device, config: Any) -> Any:
        """The memory plan of a config on this device's backend."""
        from backends.pytorch.traits import CPU, CUDA
        from opsd_cli.planning.memory_plan import Prompts, plan

        memory = (CUDA if device.on_gpu else CPU).memory
        return plan(
            config, self.shape, Prompts(self.student, self.teacher), memory, not device.on_gpu
        )

    def batch(self) -> Any:
        """Random completions under both prompts."""
        from backends.interface import DivergenceBatch, DivergenceItem
        from opsd_cli.losses.divergence import DivergenceSpec

        weight = 1 / (self.rows * self.completion)
        text = functools.partial(random_ids, MODELS[self.model]["vocab_size"])
        items = (
            DivergenceItem(
                text(self.student, 3 * row), text(self.teacher, 3 * row + 1),
                text(self.completion, 3 * row + 2), weight,
            )
            for row in range(self.rows)
        )  # fmt: skip
        return DivergenceBatch(tuple(items), DivergenceSpec("jsd"))


def random_ids(vocabulary: int, length: int, seed: int) -> tuple[int, ...]:
    """Token ids, none of them special."""
    return tuple(np.random.default_rng(seed).integers(64, vocabulary, length).tolist())


@functools.cache
def tokenizer_folder() -> Path:
    """A folder with a small tokenizer, which this process removes at its end."""
    import atexit
    import shutil

    from benchmarks.random_models import write_tokenizer

    folder = Path(tempfile.mkdtemp(prefix="opsd-kit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_tokenizer(folder, pad_is_end=True)
    return folder


def random_model(device: Device, name: str) -> Any:
    """transformers' model of a shape, frozen, its weights made on the device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    settings = Qwen3Config(**MODELS[name], bos_token_id=None, eos_token_id=None, pad_token_id=None)
    with torch.device(device.torch):
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=device.dtype)
    return model.requires_grad_(False).eval()


def random_policy(device: Device, work: Work, config: Any, trainable: bool = True) -> Any:
    """A policy whose model has random weights, and which no token stops."""
    from backends.pytorch.loading import Loaded
    from backends.pytorch.policy import TorchPolicy
    from backends.shared.model_files import load_tokenizer
    from backends.shared.tokenizer import HuggingFaceTokenizer

    rows = MODELS[work.model]["vocab_size"]
    wrapped = load_tokenizer(tokenizer_folder(), config)
    model = random_model(device, work.model)
    loaded = Loaded(model, HuggingFaceTokenizer(wrapped, rows), frozenset(), rows)
    return TorchPolicy(config, loaded, device.torch, trainable)
