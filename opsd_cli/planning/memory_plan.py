"""How much memory a run will need, from its config and the model's config.json alone.

A peak is weights, adapter and optimiser, and the larger of two phases that never overlap: drawing
rollouts (a cache of keys and values, one step's logits) and learning from them (activations of one
micro-batch, the divergence's chunk). Sizes of arrays are counted; what frameworks keep beside them
was fitted to measured peaks (`python benchmarks/memory_plan.py`), and is named as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd_cli.config.schema import Config
from opsd_cli.problems import Problem

_CHUNK = {"mlx": 40 * 2**20, "cpu": 64 * 2**20, "cuda": 128 * 2**20}
"""Float32 logits of one role in a chunk of the divergence."""


@dataclass(frozen=True)
class _Kept:
    """Arrays that a framework keeps, measured.

    Args:
        chunks: of a chunk of logits, at once.
        hidden: of [tokens, hidden] a block, for its backward pass.
        inner: of [tokens, intermediate].
        heads: of [tokens, (heads + 2 × key-value heads) × head_dim].
        scores: of [heads, length, length] a row: MLX trains unfused attention.
        passing: blocks' worth that comes and goes while the rest is kept.
        recomputed: the same under gradient checkpointing, where of a block
        border: arrays of [tokens, hidden] are kept.
    """

    chunks: float
    hidden: float
    inner: float
    heads: float
    scores: float
    passing: float
    recomputed: float
    border: float


_KEPT = {
    "mlx": _Kept(7.0, 4.5, 5.3, 2.4, 1.15, 1.3, 2.7, 2.5),
    "cpu": _Kept(2.5, 4.2, 3.35, 3.35, 0.0, 0.2, 0.3, 1.0),
    "cuda": _Kept(7.0, 4.2, 3.35, 3.35, 0.0, 1.0, 2.0, 1.0),
}
_BLOCK_OF_LENGTHS = {"mlx": 32, "cpu": 1, "cuda": 1}
"""Lengths are padded to multiples of this."""
_CHARACTERS = 3.0
"""Characters a token, on the low side: mathematics has many short ones."""
_UNSEEN_QUESTION, _UNSEEN_REFERENCE = 512, 8192
"""Tokens allowed for problems that are not at hand."""
_TEMPLATES = 120
"""Tokens of the teacher's instructions and the chat template."""


@dataclass(frozen=True)
class Shape:
    """What a decoder's memory depends on. `bits` is what a quantised weight takes, else None."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    bits: float | None = None

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """A block's linear layers by their usual names: inputs and outputs."""
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
        """Weights, norms and biases left out."""
        blocks = self.layers * sum(a * b for a, b in self.linear.values())
        return blocks + self.vocabulary * self.hidden * (1 if self.tied else 2)


def shape_of(settings: Mapping[str, Any]) -> Shape | None:
    """The shape that a config.json names; None for what is no plain decoder (experts, say)."""
    settings = {**settings, **settings.get("text_config", {})}
    if any("expert" in key and settings[key] for key in settings):
        return None
    try:
        heads = int(settings["num_attention_heads"])
        hidden = int(settings["hidden_size"])
        quantised = settings.get("quantization") or {}
        bits = None
        if quantised:  # a scale and a bias of 16 bits each a group
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
"""Shapes of the models that the presets name, for a plan where the hub cannot be asked."""


def known_shape(model: str) -> Shape | None:
    """The shape of a hub id whose config.json is not at hand; None for one not known here."""
    name = model.rpartition("/")[2].casefold()
    quantised = name.endswith("-4bit")
    settings = _KNOWN.get(name.removesuffix("-4bit"))
    if settings is None:
        return None
    group = {"quantization": {"bits": 4, "group_size": 64}} if quantised else {}
    return shape_of({**_QWEN3, **settings, **group})


@dataclass(frozen=True)
class Prompts:
    """Tokens of the longest prompt of either role."""

    student: int
    teacher: int


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part. Rollouts and learning are never there at once; `together` says whether
    activations and the divergence are: on MLX the loss is done before the gradient is begun."""

    weights: int
    adapter: int
    rollouts: int
    activations: int
    divergence: int
    together: bool

    @property
    def parts(self) -> dict[str, int]:
        """By names for people."""
        return {
            "weights": self.weights,
            "adapter and optimiser": self.adapter,
            "rollouts (KV cache)": self.rollouts,
            "activations": self.activations,
            "divergence": self.divergence,
        }

    @property
    def peak(self) -> int:
        """The most at any moment."""
        learning = (self.activations, self.divergence)
        most = sum(learning) if self.together else max(learning)
        return self.weights + self.adapter + max(self.rollouts, most)


def estimated(config: Config, problems: Sequence[Problem]) -> Prompts:
    """Prompt lengths from the texts' lengths: a tokenizer is not worth a download.

    Without problems, a long question, and a reference as long as it may be.
    """
    if not problems:
        return Prompts(_UNSEEN_QUESTION, config.prompts.teacher.max_tokens or _UNSEEN_REFERENCE)
    question = max((len(p.question) for p in problems), default=0) / _CHARACTERS
    solution = max((len(p.solution or "") for p in problems), default=0) / _CHARACTERS
    teacher = int(question + solution) + _TEMPLATES
    limit = config.prompts.teacher.max_tokens
    return Prompts(int(question) + _TEMPLATES // 2, min(teacher, limit) if limit else teacher)


def estimated_reference(config: Config, problems: Sequence[Problem]) -> int:
    """Tokens of the longest reference solution, as supervised learning reads it."""
    if not problems:
        return config.sft.max_tokens or _UNSEEN_REFERENCE
    longest = max((len(p.solution or "") for p in problems), default=0)
    return max(1, int(longest / _CHARACTERS))


def plan(config: Config, shape: Shape, prompts: Prompts, backend: str, on_cpu: bool) -> MemoryPlan:
    """The parts of a run's memory.

    Args:
        config: resolved.
        shape: of its model.
        prompts: their lengths.
        backend: mlx, cpu or cuda.
        on_cpu: whether that backend works on a CPU, where `train.dtype` auto means float32.
    """
    wide = 4 if config.train.dtype == "float32" else 2
    if config.train.dtype == "auto":
        wide = 4 if on_cpu else 2
    stored = wide if shape.bits is None else shape.bits / 8
    adapter = _adapter_parameters(config, shape)
    # Weight, gradient, two moments; an average where there is one.
    copies = 4 + (config.teacher.weights == "ema") + (config.adapter is not None)
    return MemoryPlan(
        weights=int(shape.parameters * stored),
        adapter=4 * copies * adapter,
        rollouts=_rollouts(config, shape, prompts, backend, wide),
        activations=_activations(config, shape, prompts, backend, wide),
        divergence=_divergence(config, shape, prompts, backend, wide),
        together=backend != "mlx",
    )


def _adapter_parameters(config: Config, shape: Shape) -> int:
    sizes = [sum(shape.linear[t]) for t in config.lora.targets if t in shape.linear]
    return shape.layers * config.lora.rank * sum(sizes)


def _step_sequences(config: Config) -> int:
    """Sequences that a step learns from: rollouts, or for supervised learning its questions."""
    from opsd_cli import methods

    return config.train.questions_per_step * max(1, methods.get(config).rollouts_per_question())


def _completion(config: Config, prompts: Prompts) -> int:
    """Tokens of the longest text that is learnt from; supervised learning's is the reference."""
    if config.method == "sft":
        return max(1, prompts.teacher - prompts.student)
    return config.sampling.max_new_tokens


def _rollouts(config: Config, shape: Shape, prompts: Prompts, backend: str, wide: int) -> int:
    rows = config.rollouts.batch_size
    # Evaluations are drawn in the same batches, and may be longer.
    longest = max(config.sampling.max_new_tokens, config.evaluation.max_new_tokens or 0)
    length = prompts.student + longest
    cache = rows * length * shape.layers * 2 * shape.kv_heads * shape.head_dim * wide
    # A cache that grows is copied, a layer at a time on MLX and all of it on PyTorch's way here.
    logits = 4 * rows * shape.vocabulary * 4
    return int(cache * (1 + 1 / shape.layers)) + logits


def _micro_batch(config: Config, prompts: Prompts) -> int:
    """Rows of the largest micro-batch."""
    teacher = prompts.student if config.method == "sft" else prompts.teacher
    length = max(prompts.student, teacher) + _completion(config, prompts)
    rows = max(1, config.train.micro_batch_tokens // length)
    return min(rows, _step_sequences(config))


def _activations(config: Config, shape: Shape, prompts: Prompts, backend: str, wide: int) -> int:
    rows = _micro_batch(config, prompts)
    completion = _completion(config, prompts)
    kept = _KEPT[backend]
    multiple = _BLOCK_OF_LENGTHS[backend]

    def block(prompt: int) -> float:
        """Bytes of one block's arrays for a micro-batch."""
        length = -(-(prompt + completion) // multiple) * multiple
        a_token = (
            kept.hidden * shape.hidden
            + kept.inner * shape.intermediate
            + kept.heads * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
            + kept.scores * shape.heads * length
        )
        return wide * rows * length * a_token

    own = block(prompts.student)
    if config.train.gradient_checkpointing:
        tokens = rows * (prompts.student + completion)
        border = kept.border * tokens * shape.hidden * wide
        return int(shape.layers * border + kept.recomputed * own)
    return int((shape.layers + kept.passing) * own)


def _divergence(config: Config, shape: Shape, prompts: Prompts, backend: str, wide: int) -> int:
    rows = _micro_batch(config, prompts)
    tokens = rows * _completion(config, prompts)
    logits = min(_CHUNK[backend], tokens * shape.vocabulary * 4)
    # Student's and teacher's hidden states, and the gradient in float32.
    hidden = tokens * shape.hidden * (2 * wide + 4)
    kept = 0
    if config.train.passes > 1 and config.teacher.weights == "initial":
        kept = _step_sequences(config) * config.sampling.max_new_tokens * shape.hidden * wide
    return int(_KEPT[backend].chunks * logits) + hidden + kept


def nearest_that_fits(
    config: Config, limit: int, peak: Callable[[Config], int]
) -> dict[str, Any] | None:
    """Settings whose peak is within the limit, changing what costs least in results first.

    Recomputing activations and smaller batches change nothing that is learnt; a lower rank and
    shorter completions do, and come last. What would not lower the peak is left alone. None:
    nothing helps, the model itself is too large.
    """
    from opsd_cli.config.resolve import assigned

    changed: dict[str, Any] = {}
    while peak(config) > limit:
        for key, smaller in _LEVERS:
            value = smaller(config)
            if value is not None and peak(tried := assigned(config, key, value)) < peak(config):
                config = tried
                changed[key] = value
                break
        else:
            return None
    return changed


def _half(number: int, least: int) -> int | None:
    return None if number <= least else max(least, math.ceil(number / 2))


_LEVERS: tuple[tuple[str, Callable[[Config], Any]], ...] = (
    ("train.micro_batch_tokens", lambda c: _half(c.train.micro_batch_tokens, 2048)),
    ("train.gradient_checkpointing", lambda c: None if c.train.gradient_checkpointing else True),
    ("train.micro_batch_tokens", lambda c: _half(c.train.micro_batch_tokens, 256)),
    ("rollouts.batch_size", lambda c: _half(c.rollouts.batch_size, 1)),
    ("lora.rank", lambda c: _half(c.lora.rank, 8)),
    ("sampling.max_new_tokens", lambda c: _half(c.sampling.max_new_tokens, 64)),
)
