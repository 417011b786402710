"""Stand in for the tokenizers of model families: small ones with chat templates built like theirs.

The templates are written for these tests: the same turn markers, think blocks, dates, BOS tokens
and treatment of system turns as the families', as short as possible. Vocabularies are bytes, so
that any text can be encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A template's structure. `stops` are the ids of its generation config, as tokens."""

    template: str | None
    special: tuple[str, ...]
    eos: str
    stops: tuple[str, ...]
    bos: str | None = None
    adds_bos: bool = False


_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>",
)  # fmt: skip
GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
MISTRAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
_GEMMA_TURNS = (
    "{% for m in turns %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ folded if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

FAMILIES: dict[str, Family] = {
    # Thinking off closes an empty think block; on, nothing is added.
    "qwen3": Family(
        _CHATML + "{% if enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif %}",
        QWEN, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"),
    ),
    # Its successors open the think block in the prompt when thinking is on.
    "qwen3.5": Family(
        _CHATML + "{% if enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}",
        QWEN, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"),
    ),
    # Adds its own system turn if there is none; has no thinking mode.
    "qwen2.5": Family(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n"
        "{% endif %}" + _CHATML + "{% endif %}",
        QWEN, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"),
    ),
    # Writes today's date into the system turn, and the BOS token.
    "llama3.2": Family(
        "{% if date_string is not defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
        "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        "Today Date: {{ date_string }}\n\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% set messages = messages[1:] %}{% endif %}<|eot_id|>"
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        "{% endif %}",
        LLAMA, "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), "<|begin_of_text|>",
        adds_bos=True,
    ),
    # Prepends the system turn to the first user turn.
    "gemma3": Family(
        "{{ bos_token }}{% set folded = '' %}{% set turns = messages %}"
        "{% if messages[0].role == 'system' %}{% set folded = messages[0].content + '\n\n' %}"
        "{% set turns = messages[1:] %}{% endif %}" + _GEMMA_TURNS,
        GEMMA, "<eos>", ("<eos>", "<end_of_turn>"), "<bos>", adds_bos=True,
    ),
    # Refuses a system turn.
    "gemma2": Family(
        "{{ bos_token }}{% set folded = '' %}{% set turns = messages %}"
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + _GEMMA_TURNS,
        GEMMA, "<eos>", ("<eos>", "<end_of_turn>"), "<bos>", adds_bos=True,
    ),
    # No header begins the answer: the user turn is closed and nothing follows.
    "mistral": Family(
        "{{ bos_token }}{% set folded = '' %}{% if messages[0].role == 'system' %}"
        "{% set folded = messages[0].content + '\n\n' %}"
        "{% set messages = messages[1:] %}{% endif %}"
        "{% for m in messages %}{% if m.role == 'user' %}"
        "[INST] {{ folded if loop.last else '' }}{{ m.content }}[/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        MISTRAL, "</s>", ("</s>",), "<s>", adds_bos=True,
    ),
    "base": Family(None, QWEN, "<|endoftext|>", ("<|endoftext|>",)),
    "llama-base": Family(
        None, LLAMA, "<|end_of_text|>", ("<|end_of_text|>",), "<|begin_of_text|>", adds_bos=True
    ),
}  # fmt: skip


def tokenizer(name: str) -> Any:
    """The family's tokenizer, as transformers loads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*family.special, *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(family.special))
    if family.adds_bos and family.bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, vocabulary[family.bos])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=family.bos,
        eos_token=family.eos,
        chat_template=family.template,
    )
