"""Qwen3 models of random weights, written to a folder with a tokenizer of as many tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def build_qwen3(
    folder: Path,
    settings: dict[str, Any],
    *,
    pad_is_end: bool = False,
    every_token: bool = True,
    stops: bool = True,
) -> None:
    """Write a model from seed 0.

    Args:
        folder: where it is written.
        settings: of `transformers.Qwen3Config`.
        pad_is_end: whether padding and the end of a text share a token id.
        every_token: whether the tokenizer has a token for every row of the head; else it knows its
            few characters alone.
        stops: whether the model's generation config names a stop token.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tests.support.tiny_models import build_tokenizer

    torch.manual_seed(0)
    build_tokenizer(folder, pad_is_end=pad_is_end)
    if every_token:
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        for index in range(len(vocabulary), settings["vocab_size"]):
            vocabulary[f"<t{index}>"] = index
        path.write_text(json.dumps(tokenizer))
    model = Qwen3ForCausalLM(Qwen3Config(**settings))
    if not stops:
        model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
