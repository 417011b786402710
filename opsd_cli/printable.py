r"""Text that was written by a model, a data set or a stranger, made safe to print.

A terminal obeys what it is sent: an ESC or a C1 code moves the cursor, changes colours, renames the
window, or leaves a command open that swallows all that follows; a carriage return lets the end of a
line overwrite its beginning; bidirectional overrides show characters in another order than they
stand in. So all of these are printed as the escape that Python and JSON write for them, `\x1b` say,
and everything else, newlines and tabs included, as it is. What `--json` prints says the same
exactly.
"""

from __future__ import annotations

import re

#: Control characters but newline and tab; line separators; overrides, embeddings and isolates of
#: direction (UAX #9); halves of surrogate pairs, which no encoding can write.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with what a terminal would obey, or could not show, as escapes."""
    return _HIDDEN.sub(_escape, text)


def visible_line(text: str) -> str:
    """The same in one line: line breaks become spaces."""
    return visible(" ".join(part.strip() for part in re.split(r"[\r\n]+", text) if part.strip()))


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters: a longer one without its middle."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def visible_json(text: str) -> str:
    """A JSON text with the same characters as JSON's own escapes: another spelling of equal values.

    JSON allows most of them within strings alone, and there this is how it writes them.
    """
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
