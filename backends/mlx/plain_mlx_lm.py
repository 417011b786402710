"""What mlx-lm reads of a model's config.json without `opsd`; nothing here imports mlx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.shared.rotary import newer_spelling_alone

#: Architectures of which mlx-lm 0.32 reads `rope_parameters`.
READS_ROPE_PARAMETERS = (
    "exaone_moe", "gemma4_text", "glm_moe_dsa", "granitemoehybrid", "laguna", "lfm2", "lfm2_moe",
    "mellum", "ministral3", "mistral4", "olmo_hybrid", "qwen3", "qwen3_5",
)  # fmt: skip


def export_warning(settings: Mapping[str, Any], model: str) -> str | None:
    """A warning if mlx-lm would compute other rotary positions for a base model than `opsd` does.

    Args:
        settings: the base model's config.json.
        model: its name for people.

    Returns:
        One line; None where mlx-lm reads the model rightly.
    """
    text = settings.get("text_config")
    kind = (text if isinstance(text, dict) else settings).get("model_type")
    if not newer_spelling_alone(settings) or kind in READS_ROPE_PARAMETERS:
        return None
    return (
        f"plain mlx_lm does not read rope_parameters of a {kind} model and would give other "
        f"answers with {model}; --format merged writes a model that it reads rightly"
    )
