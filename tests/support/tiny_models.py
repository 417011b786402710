"""Stand in for pretrained models: tiny random ones on disk, one per architecture family.

Built with transformers from a seed in a fraction of a second, with a tiny tokenizer, so that the
suite needs no network. What each is for:

    qwen3   tied head, padded beyond the tokenizer's vocabulary; pad and stop share an id; YaRN
    llama   untied head, two stop ids, a context of 48; scaled as Llama 3 is
    gemma2  soft-capped logits, sliding windows of 8, tied head; mlx-lm's is refused
    gemma3  sliding windows of 8 in two of three layers, a rotary base for each kind, tied head

No config value is a default of transformers or mlx-lm: rotary base and scaling, head size (which is
not hidden size over heads), epsilon of the norms, windows, soft caps. So a backend that falls back
to a default gives other logits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHARACTERS = "0123456789+-*= abcdefgh"
END, PAD, OTHER_END = "<end>", "<pad>", "<stop>"
FAMILIES = ("qwen3", "llama", "gemma2", "gemma3")
#: (backend, family): architectures that a backend refuses, because its library is wrong.
REFUSED = {("mlx", "gemma2")}
COMMON: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
    "rms_norm_eps": 0.02,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "num_hidden_layers": 2,
        "head_dim": 6,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 300.0, **_YARN},
    },
    "llama": {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "head_dim": 6,
        "max_position_embeddings": 48,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": 500.0, **_LLAMA3},
    },
    "gemma2": {
        "model_type": "gemma2",
        "num_hidden_layers": 2,
        "head_dim": 6,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 5.0,
        "attn_logit_softcapping": 20.0,
        "query_pre_attn_scalar": 5,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 700.0, "rope_type": "default"},
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "head_dim": 6,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "query_pre_attn_scalar": 5,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "sliding_attention": {"rope_theta": 90.0, "rope_type": "default"},
            "full_attention": {"rope_theta": 4000.0, "rope_type": "linear", "factor": 2.0},
        },
    },
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}={% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


def build_tokenizer(folder: Path, pad_is_end: bool) -> int:
    """Write a character tokenizer; returns its number of ids."""
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
    """Write one of `FAMILIES` to a folder."""
    stops: Any = [0, 1] if family == "llama" else 0
    padding = 7 if family == "qwen3" else 0
    return build(folder, SETTINGS[family], seed, family == "qwen3", stops, padding)


def build_teacher(folder: Path) -> Path:
    """Write a teacher for qwen3: its tokenizer, another D, other layers and heads, an untied head,
    no padded rows, another stop id."""
    bigger = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "tie_word_embeddings": False,
    }  # fmt: skip
    settings = {**SETTINGS["qwen3"], **bigger}
    return build(folder, settings, seed=7, pad_is_end=True, stops=[1])


def build(
    folder: Path,
    settings: Mapping[str, Any],
    seed: int = 0,
    pad_is_end: bool = False,
    stops: Any = 0,
    padding: int = 0,
) -> Path:
    """Write a model of these settings and `COMMON` to a folder, as transformers writes it."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig

    ids = build_tokenizer(folder, pad_is_end)
    torch.manual_seed(seed)
    given = {**COMMON, **settings}
    config = CONFIG_MAPPING[given.pop("model_type")](vocab_size=ids + padding, **given)
    model: Any = AutoModelForCausalLM.from_config(config)
    # The usual initialisation is so small that every distribution would be nearly uniform.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.5 if "embed" in name or "lm_head" in name else 0.3)
            elif "bias" in name:
                parameter.normal_(0.0, 0.3)
        # Rows of the head without a token get the largest logits, so that using them shows.
        model.get_output_embeddings().weight[ids:] *= 20.0
    model.generation_config = GenerationConfig(eos_token_id=stops)
    model.save_pretrained(folder)
    return folder
