"""Stands in for a tokenizer: characters as ids, and a Qwen-style chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TURNS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")


class CharacterTokenizer:
    """Implements `opsd_cli.prompts.rendering.Tokenizer`: one id a character or control token."""

    control_tokens = TURNS
    has_chat_template = True
    end_of_turn = TURNS.index("<|im_end|>")

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], generation_prompt: bool, **arguments: Any
    ) -> str:
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        if not generation_prompt:
            return text
        empty = "" if arguments.get("enable_thinking", True) else "<think>\n\n</think>\n\n"
        return f"{text}<|im_start|>assistant\n{empty}"

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            for index, token in enumerate(TURNS):
                if text.startswith(token):
                    ids.append(index)
                    text = text[len(token) :]
                    break
            else:
                ids.append(ord(text[0]) + len(TURNS))
                text = text[1:]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(TURNS[i] if i < len(TURNS) else chr(i - len(TURNS)) for i in ids)
