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

    torch.manual_seed(0)
    write_tokenizer(folder, pad_is_end, settings["vocab_size"] if every_token else 0)
    model = Qwen3ForCausalLM(Qwen3Config(**settings))
    if not stops:
        model.generation_config.eos_token_id = None
    model.save_pretrained(folder)


def write_tokenizer(folder: Path, pad_is_end: bool, tokens: int = 0) -> None:
    """Write a tokenizer of characters, and of further tokens up to that number in all."""
    from tests.support.tiny_models import build_tokenizer

    build_tokenizer(folder, pad_is_end=pad_is_end)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for index in range(len(vocabulary), tokens):
        vocabulary[f"<t{index}>"] = index
    path.write_text(json.dumps(tokenizer))
