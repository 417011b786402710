r"""Escaping control characters in untrusted text before it is printed to a terminal.

Text from models, data sets and error messages can contain terminal commands: ESC and C1 codes move
the cursor, change colours, rename the window or hide what follows; a carriage return overwrites the
line; bidirectional overrides change the order of characters. These characters are printed as the
escapes of Python and JSON, such as `\x1b`; all others, newline and tab included, stay as they are.
`--json` output is escaped so that it parses to the same values.
"""

from __future__ import annotations

import re

#: Control characters except newline and tab; line separators; bidirectional overrides, embeddings
#: and isolates (UAX #9); lone surrogates, which no encoding can write.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with control characters escaped."""
    return _HIDDEN.sub(_escape, text)


def visible_line(text: str) -> str:
    """The text with control characters escaped and line breaks replaced by spaces."""
    return visible(" ".join(part.strip() for part in re.split(r"[\r\n]+", text) if part.strip()))


def shortened(text: str, most: int) -> str:
    """The text, without its middle if it has more than `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def visible_json(text: str) -> str:
    """A JSON text with control characters as JSON escapes; it parses to the same value.

    JSON allows these characters inside strings only, where `\\uXXXX` stands for them.
    """
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
