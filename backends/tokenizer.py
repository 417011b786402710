"""Hugging Face tokenizers behind the small surface that the shared half needs.

Both backends load tokenizers through transformers (mlx-lm does too), so this is written once.
Chat templates carry their own BOS where they want one, hence `add_special_tokens=False` throughout;
where there is no template, the BOS that the tokenizer would have put first is put there.

Some templates write today's date (Llama 3's, through `strftime_now`). A prompt that changes at
midnight cannot be resumed, compared or cached, so that clock stands still here; where a template
takes a `date_string`, `chat_arguments` can set another day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from opsd_cli.errors import ConfigError

THINK_TAGS = ("<think>", "</think>")
#: The day on which every prompt is written: the one that Llama 3's own template falls back to.
TODAY = datetime(2024, 7, 26)
_CLOCK = re.compile(r"strftime_now\((['\"])(.*?)\1\)")
_MARK = "MARK"


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
        """The chat template's text, or the turns alone where there is no template.

        Raises:
            ConfigError: the template refuses the turns, a system turn say, or the arguments.
        """
        from jinja2.exceptions import TemplateError

        if not self.wrapped.chat_template:
            return self._bos + "".join(f"{message['content']}\n\n" for message in messages)
        try:
            return self.wrapped.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=generation_prompt,
                chat_template=self._template,
                **arguments,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            system = any(message["role"] == "system" for message in messages)
            raise ConfigError(
                "the model's chat template refuses the prompt: "
                + str(error).partition("\n")[0][:200],
                "it may know no system turn: set prompts.student.system and "
                "prompts.teacher.system to null"
                if system
                else "check prompts.student.chat_arguments and prompts.teacher.chat_arguments",
            ) from error

    @cached_property
    def _template(self) -> str:
        """The chat template with its clock stopped."""
        # The function itself cannot be replaced: transformers makes text of what is passed in.
        template: str = self.wrapped.get_chat_template()
        return _CLOCK.sub(lambda call: repr(TODAY.strftime(call[2])), template)

    def encode(self, text: str) -> list[int]:
        return self.wrapped.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self.wrapped.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    @cached_property
    def end_of_turn(self) -> int | None:
        """What the template writes after an assistant's words, else the tokenizer's EOS.

        They differ: Gemma's turns end with a token of their own, and its EOS never comes.
        """
        if self.wrapped.chat_template:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
            after = self.render_chat(turns, generation_prompt=False).rpartition(_MARK)[2]
            ids = self.encode(after)
            if ids and self.wrapped.convert_ids_to_tokens(ids[0]) in self.control_tokens:
                return ids[0]
        end = self.wrapped.eos_token_id
        return None if end is None else int(end)

    @cached_property
    def size(self) -> int:
        """One more than the highest token id."""
        return max(self.wrapped.get_vocab().values()) + 1

    @property
    def pad_id(self) -> int:
        pad = self.wrapped.pad_token_id
        return int(pad if pad is not None else self.wrapped.eos_token_id or 0)

    @cached_property
    def _bos(self) -> str:
        """The BOS, where the tokenizer puts one before a text of its own accord."""
        bos = self.wrapped.bos_token_id
        starts_with_it = bos is not None and self.wrapped.encode("a")[:1] == [bos]
        return str(self.wrapped.bos_token) if starts_with_it else ""
