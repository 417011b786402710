"""The sampling settings that the authors of each model family recommend, with their sources.

`evaluation.sampling: recommended` uses them instead of the config's numbers. A family is identified
by `model_type` and, where several share one, by the model's name. Any other model uses the numbers
in its own generation_config.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.tracking.listener import Messages


@dataclass(frozen=True)
class Recommended:
    """Sampling settings as in `backends.interface.Sampling`, and their source."""

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
        ConfigError: nothing is recommended, or what is not a number.
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


def with_recommended(config: Config, messages: Messages) -> tuple[Config, str]:
    """The config with `evaluation.sampling: recommended` made numbers, and where those come from.

    Raises:
        ConfigError: nothing is recommended for the model.
        ModelError: its config.json cannot be read.
    """
    if config.evaluation.sampling != "recommended":
        return config, "as configured"
    from backends.shared.model_files import read_generation_settings, read_settings

    where = config.model_path
    found = recommended(
        config.model,
        read_settings(where, config.revision),
        read_generation_settings(where, config.revision),
        config.thinks,
    )
    numbers = {name: getattr(found, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    messages.note(
        f"sampling at temperature {found.temperature:g}, top-p {found.top_p:g}, "
        f"top-k {found.top_k}: {found.source}"
    )
    changed = config.evaluation.model_copy(update=numbers)
    return config.model_copy(update={"evaluation": changed}), found.source
