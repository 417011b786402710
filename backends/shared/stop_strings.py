"""Stop strings: texts that end a completion, wherever the borders of its tokens are.

A completion ends with the first token after which its text contains a stop string. Its token ids
stay those that were sampled, because training needs the tokens that the policy chose; its text is
cut before the stop string (`opsd_cli.prompts.rendering.completion_text`), as vLLM does by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

#: Tokens that are decoded before those that a stop string can take: a decoder may drop a space at
#: the beginning of a text, or need the first bytes of a character.
MARGIN = 8


class Decoder(Protocol):
    """What stop strings need of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text, with control tokens written out."""


class StopStrings:
    """Whether the newest token of a completion completes a stop string.

    Args:
        strings: not empty.
        tokenizer: decodes the completion.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Decoder) -> None:
        self._strings = tuple(strings)
        self._tokenizer = tokenizer
        # A token is at least one byte of text, so no more tokens than bytes hold a stop string.
        self._window = max(len(text.encode()) for text in strings) + MARGIN

    def end(self, ids: Sequence[int]) -> bool:
        """True if the text of these completion tokens contains a stop string near its end."""
        return self.contained(ids[-self._window :])

    def contained(self, ids: Sequence[int]) -> bool:
        """True if the text of these tokens contains a stop string."""
        text = self._tokenizer.decode(ids)
        return any(string in text for string in self._strings)


def stop_strings(strings: Sequence[str], tokenizer: Decoder | None) -> StopStrings | None:
    """The stop strings; None if there are none, or no tokenizer to decode with."""
    return StopStrings(strings, tokenizer) if strings and tokenizer is not None else None
