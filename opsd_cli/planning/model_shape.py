"""The shape of a decoder, which sizes a memory plan: from its config.json, or from its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backends.traits import MemoryTraits
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelNotAtHand


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with dense blocks.

    Attributes:
        bits: bits of a quantised weight, its group's scale and bias included; None for weights
            that are not quantised.
        whole_embedding: True if embedding and head are not quantised although `bits` is given, and
            a quantised layer is made whole while it is applied.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    bits: float | None = None
    whole_embedding: bool = False

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of a block's linear layers, by their usual names."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def parameters(self) -> int:
        """Number of weights, without norms and biases."""
        blocks = self.layers * sum(a * b for a, b in self.linear.values())
        return blocks + self.embedding

    @property
    def embedding(self) -> int:
        """Number of weights of the embedding, and of the head where it has its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def stored(self, parameters: float, number_bytes: int) -> int:
        """Bytes of so many of the weights, embedding and head among them.

        Args:
            parameters: of them.
            number_bytes: of a weight that is not quantised.
        """
        if self.bits is None:
            return int(parameters * number_bytes)
        whole = self.embedding if self.whole_embedding else 0
        return int((parameters - whole) * self.bits / 8 + whole * number_bytes)

    def made_whole(self, number_bytes: int) -> int:
        """Bytes of the largest layer, where quantised layers are made whole; 0 elsewhere."""
        if self.bits is None or not self.whole_embedding:
            return 0
        return number_bytes * max(a * b for a, b in self.linear.values())


def shape_of(settings: Mapping[str, Any]) -> Shape | None:
    """The shape in a config.json; None for other architectures, such as mixtures of experts."""
    settings = {**settings, **settings.get("text_config", {})}
    if any("expert" in key and settings[key] for key in settings):
        return None
    try:
        heads = int(settings["num_attention_heads"])
        hidden = int(settings["hidden_size"])
        quantised = settings.get("quantization") or {}
        bits = None
        if quantised:  # each group has a scale and a bias of 16 bits
            bits = quantised["bits"] + 32 / quantised["group_size"]
        return Shape(
            layers=int(settings["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(settings["intermediate_size"]),
            heads=heads,
            kv_heads=int(settings.get("num_key_value_heads") or heads),
            head_dim=int(settings.get("head_dim") or hidden // heads),
            vocabulary=int(settings["vocab_size"]),
            tied=bool(settings.get("tie_word_embeddings", False)),
            bits=bits,
        )
    except (KeyError, TypeError, ValueError):
        return None


def configured_shape(config: Config) -> Shape | None:
    """The shape of a run's model; None for an architecture without one.

    Raises:
        ModelError: its config.json cannot be read, and the model is not listed here.
    """
    from backends.shared.model_files import read_settings

    try:
        return shape_of(read_settings(config.model_path, config.revision))
    except ModelNotAtHand:
        shape = known_shape(config.model)
        if shape is None:
            raise
        return shape


def teacher_shape(config: Config, memory: MemoryTraits) -> Shape | None:
    """The shape of `teacher.model` as it is loaded; None without one, or for an unknown one.

    Args:
        memory: what the backend declares.

    Raises: as `configured_shape`.
    """
    from backends.shared.quantization import BITS, GROUP, GROUP_BITS

    teacher = methods.teacher_model(config)
    shape = None if teacher is None else configured_shape(teacher)
    bits = BITS[config.teacher.quantize]
    if shape is None or bits is None or shape.bits is not None:
        return shape
    whole = not memory.quantizes_embedding
    return replace(shape, bits=bits + GROUP_BITS / GROUP, whole_embedding=whole)


_QWEN3 = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936}
_KNOWN: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "tie_word_embeddings": True,
    },
    "qwen3-1.7b": {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "tie_word_embeddings": True,
    },
    "qwen3-4b": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""config.json of the models in the presets, for a plan where the hub cannot be reached."""


def known_shape(model: str) -> Shape | None:
    """The shape of a hub id, without its config.json; None for a model that is not listed here."""
    name = model.rpartition("/")[2].casefold()
    quantised = name.endswith("-4bit")
    settings = _KNOWN.get(name.removesuffix("-4bit"))
    if settings is None:
        return None
    group = {"quantization": {"bits": 4, "group_size": 64}} if quantised else {}
    return shape_of({**_QWEN3, **settings, **group})
