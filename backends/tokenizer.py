"""Hugging Face tokenizers behind the small surface that the shared half needs.

Both backends load tokenizers through transformers (mlx-lm does too), so this is written once.
Chat templates carry their own BOS where they want one, hence `add_special_tokens=False` throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

THINK_TAGS = ("<think>", "</think>")


class HuggingFaceTokenizer:
    """Adapts a transformers tokenizer to `opsd_cli.prompts.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self.wrapped = tokenizer

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        special = set(self.wrapped.all_special_tokens)
        for token in self.wrapped.added_tokens_decoder.values():
            if token.special:
                special.add(str(token))
        return tuple(sorted(special | set(THINK_TAGS)))

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], generation_prompt: bool, **arguments: Any
    ) -> str:
        if not self.wrapped.chat_template:
            return "".join(f"{message['content']}\n\n" for message in messages)
        return self.wrapped.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt, **arguments
        )

    def encode(self, text: str) -> list[int]:
        return self.wrapped.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self.wrapped.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    @property
    def end_of_turn(self) -> int | None:
        end = self.wrapped.eos_token_id
        return None if end is None else int(end)

    @property
    def pad_id(self) -> int:
        pad = self.wrapped.pad_token_id
        return int(pad if pad is not None else self.wrapped.eos_token_id or 0)
