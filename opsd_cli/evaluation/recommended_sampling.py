"""How each family's authors say to sample, and where they say it.

`evaluation.sampling: recommended` uses these instead of the config's numbers. A family is told by
its `model_type` and, where that is shared, by the model's name. What is not listed falls back to
the numbers in the model's own generation_config.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsd_cli.errors import ConfigError


@dataclass(frozen=True)
class Recommended:
    """Sampling numbers as in `backends.interface.Sampling`, and who recommends them."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    source: str


@dataclass(frozen=True)
class _Family:
    types: tuple[str, ...]
    names: str
    numbers: tuple[float, float, int, float]
    source: str
    thinking: bool | None = None


_FAMILIES = (
    _Family(
        ("qwen3", "qwen3_moe"),
        r"instruct-2507",
        (0.7, 0.8, 20, 0.0),
        "Qwen3-Instruct-2507's model card, best practices",
    ),
    _Family(
        ("qwen3", "qwen3_moe"),
        r"thinking-2507",
        (0.6, 0.95, 20, 0.0),
        "Qwen3-Thinking-2507's model card, best practices",
    ),
    _Family(
        ("qwen3", "qwen3_moe"),
        r"",
        (0.6, 0.95, 20, 0.0),
        "Qwen3's model card, best practices, thinking",
        thinking=True,
    ),
    _Family(
        ("qwen3", "qwen3_moe"),
        r"",
        (0.7, 0.8, 20, 0.0),
        "Qwen3's model card, best practices, not thinking",
        thinking=False,
    ),
    _Family(
        ("qwen2", "llama"),
        r"deepseek-r1-distill",
        (0.6, 0.95, 0, 0.0),
        "DeepSeek-R1's model card, usage recommendations",
    ),
)


def recommended(
    name: str, settings: Mapping[str, Any], generation: Mapping[str, Any], thinking: bool
) -> Recommended:
    """The sampling that a model's authors recommend.

    Args:
        name: the model's id or folder.
        settings: its config.json.
        generation: its generation_config.json; empty where there is none.
        thinking: whether the chat template is asked for a think block.

    Raises:
        ConfigError: nobody recommends anything.
    """
    for family in _FAMILIES:
        if (
            settings.get("model_type") in family.types
            and re.search(family.names, name, re.IGNORECASE)
            and family.thinking in (None, thinking)
        ):
            return Recommended(*family.numbers, source=family.source)
    if generation.get("temperature") is not None:
        try:
            return Recommended(
                temperature=float(generation["temperature"]),
                top_p=float(generation.get("top_p") or 1.0),
                top_k=int(generation.get("top_k") or 0),
                min_p=float(generation.get("min_p") or 0.0),
                source="the model's generation_config.json",
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"the generation_config.json of {name} recommends what is not a number: {error}",
                "state the numbers: evaluation.sampling=stated",
            ) from error
    raise ConfigError(
        f"nothing is recommended for {name}: its family is not known here and its "
        "generation_config.json names no temperature",
        "state the numbers: evaluation.sampling=stated with evaluation.temperature, top_p, top_k",
    )
