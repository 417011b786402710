"""Hugging Face tokenizers behind `opsd_cli.prompts.rendering.Tokenizer`.

Both backends load tokenizers through transformers (mlx-lm does too), so this is written once.
Chat templates write their own BOS if they have one, hence `add_special_tokens=False` throughout;
without a template, the BOS that the tokenizer would have put first is added.

Some templates write today's date (Llama 3's, through `strftime_now`). A prompt that changes at
midnight cannot be resumed, compared or cached, so the date is fixed in `template_worker`; for a
template with a `date_string`, `chat_arguments` can set another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from backends.shared import chat_templates
from backends.shared.model_files import hub_folder, require_model
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, ModelError
from opsd_cli.hub import first_line

THINK_TAGS = ("<think>", "</think>")
#: Characters of a template; the longest in use has some twenty thousand.
_LARGEST_TEMPLATE = 2**20
_MARK = "MARK"


class HuggingFaceTokenizer:
    """Adapts a transformers tokenizer to `opsd_cli.prompts.rendering.Tokenizer`.

    Args:
        tokenizer: transformers' tokenizer.
        rows: rows of the model's embedding; higher ids are no tokens of the model. Gemma 3's
            tokenizer has one such id, which stands for images.
    """

    def __init__(self, tokenizer: Any, rows: int | None = None) -> None:
        self.wrapped = tokenizer
        self.rows = rows

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
            ConfigError: the template refuses the turns (a system turn, for example) or arguments.
            ModelError: it is no template, or exceeds its limits of time, memory or text.
        """
        if not self.has_chat_template:
            return self.bos + "".join(f"{message['content']}\n\n" for message in messages)
        try:
            return chat_templates.render(
                self._template,
                messages,
                generation_prompt,
                {**self.wrapped.special_tokens_map, **arguments},
            )
        except chat_templates.TemplateExceeds as error:
            raise ModelError(
                f"the model's chat template cannot be used: {error}",
                "if you trust the model, give it another template (chat_template.jinja)",
            ) from error
        except chat_templates.TemplateFailed as error:
            system = any(message["role"] == "system" for message in messages)
            raise ConfigError(
                "the model's chat template refuses the prompt: "
                + str(error).partition("\n")[0][:200],
                "it may know no system turn: set prompts.student.system and "
                "prompts.teacher.system to null and prompts.teacher.place to last_turn, and take "
                "system turns out of chats"
                if system
                else "check prompts.student.chat_arguments and prompts.teacher.chat_arguments",
            ) from error

    @cached_property
    def _template(self) -> str:
        """The chat template; of several, the one for chats without tools."""
        try:
            template = self.wrapped.get_chat_template()
        except ValueError as error:
            raise ModelError(
                f"the model has no chat template of its own choice: {first_line(error)}",
                "name one of its templates `default` in tokenizer_config.json",
            ) from error
        if not isinstance(template, str) or len(template) > _LARGEST_TEMPLATE:
            raise ModelError(
                "the model's chat template is not a text that a template could be",
                "check chat_template in tokenizer_config.json, or chat_template.jinja",
            )
        return template

    def encode(self, text: str) -> list[int]:
        """Token ids.

        Raises:
            ModelError: the text has a token that the model has no row for.
        """
        # Not verbose: texts that are longer than the model's context are shortened by the caller.
        ids: list[int] = self.wrapped.encode(text, add_special_tokens=False, verbose=False)
        if self.rows is not None and ids and max(ids) >= self.rows:
            token = self.wrapped.convert_ids_to_tokens(max(ids))
            raise ModelError(
                f"the tokenizer makes {str(token)[:40]!r} token {max(ids):,}, and the model knows "
                f"{self.rows:,}",
                "use the tokenizer that came with the model",
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.wrapped.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    @property
    def has_chat_template(self) -> bool:
        """False if `render_chat` gives the turns alone."""
        return bool(self.wrapped.chat_template)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token that the template writes after an assistant's turn, else the tokenizer's EOS.

        They can differ: Gemma's turns end with another token than its EOS.
        """
        if self.has_chat_template:
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
        pad = int(pad if pad is not None else self.wrapped.eos_token_id or 0)
        return pad if self.rows is None or pad < self.rows else 0

    @cached_property
    def bos(self) -> str:
        """The BOS, if the tokenizer puts one before a text by default; else empty."""
        bos = self.wrapped.bos_token_id
        starts_with_it = bos is not None and self.wrapped.encode("a")[:1] == [bos]
        return str(self.wrapped.bos_token) if starts_with_it else ""


def tokenizer_folder(config: Config) -> Path:
    """A folder with the tokenizer of `config.model`; no weights are downloaded.

    Raises:
        ModelError: there is no such model, or its files cannot be downloaded.
    """
    where = require_model(config.model_path)
    if Path(where).is_dir():
        return Path(where)
    code = config.trust_remote_code
    return hub_folder(where, config.revision, code=code, weights=False)
