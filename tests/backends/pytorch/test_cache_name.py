"""transformers 5.24 renames the argument of the cache; either name reaches the decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from backends.pytorch.split_model import SplitModel


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_cache_is_given_by_the_name_that_the_decoder_has(
    model_folder: Callable[[str], Path], name: str
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder("qwen3"))
    plain, given = model.get_decoder().forward, []

    def forward(**arguments: Any) -> Any:
        given.append(arguments.pop(name))
        return plain(**arguments)

    # What `inspect.signature` shows of the two versions.
    written = f"def decoder(input_ids, attention_mask, position_ids, use_cache, {name}): pass"
    space: dict[str, Any] = {}
    exec(written, space)
    forward.__wrapped__ = space["decoder"]  # type: ignore[attr-defined]
    model.get_decoder().forward = forward
    split = SplitModel(model, vocabulary=8, autocast=None)
    cache = split.new_cache()
    split.hidden(torch.tensor([[1, 2]]), cache=cache)
    assert given == [cache]
