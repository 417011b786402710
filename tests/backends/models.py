"""Tiny random models on disk, one an architecture family, with a tiny tokenizer.

Built with transformers from a seed in a fraction of a second, so that the suite needs no network
and no model of the package's own. What each is for:

    qwen3   tied head, padded beyond the tokenizer's vocabulary; pad and stop share an id
    llama   untied head, two stop ids, a context of 48
    gemma2  soft-capped logits, sliding windows of 8, tied head; mlx-lm's is refused
    gemma3  sliding windows of 8 in five of six layers, tied head
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHARACTERS = "0123456789+-*= abcdefgh"
END, PAD, OTHER_END = "<end>", "<pad>", "<stop>"
FAMILIES = ("qwen3", "llama", "gemma2", "gemma3")
#: (backend, family): architectures that a backend's own library gets wrong.
REFUSED = {("mlx", "gemma2")}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}={% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


def build_tokenizer(folder: Path, pad_is_end: bool) -> int:
    """A character tokenizer; returns how many ids it has."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    special = [END, OTHER_END] if pad_is_end else [END, OTHER_END, PAD]
    vocabulary = {token: index for index, token in enumerate([*special, "<unk>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END if pad_is_end else PAD,
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def build_model(folder: Path, family: str, seed: int = 0) -> Path:
    """One of `FAMILIES`, written to `folder`."""
    import torch
    from transformers import GenerationConfig

    ids = build_tokenizer(folder, pad_is_end=family == "qwen3")
    torch.manual_seed(seed)
    model = _model(family, ids)
    # The usual initialisation is so small that every distribution would be nearly uniform.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.5 if "embed" in name or "lm_head" in name else 0.3)
        # Rows that stand for no token win every comparison they are let into.
        model.get_output_embeddings().weight[ids:] *= 20.0
    stops: Any = [0, 1] if family == "llama" else 0
    model.generation_config = GenerationConfig(eos_token_id=stops)
    model.save_pretrained(folder)
    return folder


def _model(family: str, ids: int) -> Any:
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    common: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
        "max_position_embeddings": 256,
    }
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=ids + 7, tie_word_embeddings=True, **common))
    if family == "llama":
        common["max_position_embeddings"] = 48
        return LlamaForCausalLM(LlamaConfig(vocab_size=ids, tie_word_embeddings=False, **common))
    if family == "gemma3":
        common["num_hidden_layers"] = 6
        return Gemma3ForCausalLM(
            Gemma3TextConfig(
                vocab_size=ids,
                sliding_window=8,
                query_pre_attn_scalar=4,
                tie_word_embeddings=True,
                **common,
            )
        )
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=ids,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            final_logit_softcapping=5.0,
            attn_logit_softcapping=20.0,
            query_pre_attn_scalar=4,
            tie_word_embeddings=True,
            **common,
        )
    )
