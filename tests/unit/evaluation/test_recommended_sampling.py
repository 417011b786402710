"""Sampling as a model's authors recommend it."""

from __future__ import annotations

import pytest

from opsd_cli.errors import ConfigError
from opsd_cli.evaluation.recommended_sampling import recommended

QWEN3 = {"model_type": "qwen3"}


@pytest.mark.parametrize(
    ("name", "settings", "thinking", "expected"),
    [
        ("Qwen/Qwen3-1.7B", QWEN3, True, (0.6, 0.95, 20)),
        ("Qwen/Qwen3-1.7B", QWEN3, False, (0.7, 0.8, 20)),
        ("Qwen/Qwen3-4B-Instruct-2507", QWEN3, True, (0.7, 0.8, 20)),
        ("Qwen/Qwen3-4B-Thinking-2507", QWEN3, False, (0.6, 0.95, 20)),
        ("org/DeepSeek-R1-Distill-Qwen-1.5B", {"model_type": "qwen2"}, True, (0.6, 0.95, 0)),
    ],
)  # fmt: skip
def test_recommended_sampling_of_a_known_family(
    name: str, settings: dict[str, str], thinking: bool, expected: tuple[float, float, int]
) -> None:
    # What the authors write about a use goes before what their file says of all uses.
    found = recommended(name, settings, {"temperature": 0.1}, thinking)
    assert (found.temperature, found.top_p, found.top_k) == expected
    assert "model card" in found.source


def test_recommended_sampling_from_generation_config() -> None:
    generation = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [1]}
    found = recommended(
        "meta-llama/Llama-3.2-1B-Instruct", {"model_type": "llama"}, generation, True
    )
    assert (found.temperature, found.top_p, found.top_k, found.min_p) == (0.6, 0.9, 0, 0.0)
    assert found.source == "the model's generation_config.json"
    with pytest.raises(ConfigError, match="nothing is recommended for made/model"):
        recommended("made/model", {"model_type": "llama"}, {"eos_token_id": 1}, True)


def test_recommended_sampling_refuses_what_is_not_a_number() -> None:
    with pytest.raises(ConfigError, match="what is not a number"):
        recommended("org/other", {}, {"temperature": "warm"}, thinking=False)
