r"""The structure of a normalised answer: a single value, or a list, set, tuple or interval.

This works on text, without mathematics. math-verify is not used for structures: it takes `2,2` for
`2` and a tuple for a set, and pairs the members of two sets by a sort order that may differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from opsd_cli.grading.normalise import split_top_level

_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_LETTERS = (
    r"(?:(?:\\(?:angle|triangle|measuredangle|max|min|sup|inf|deg|dim|arg)\s*)?(?:\\(?:dot|ddot|hat|vec|bar|overline|tilde|"
    rf"overrightarrow|mathcal|mathbf|mathfrak)\s*(?:\{{[^{{}}]*\}}|\\?\w)|\\text\{{[^{{}}]*\}}|\\?[A-Za-z]+)"
    rf"(?:'|\s*_\s*(?:{_GROUP}|\\text\{{[^{{}}]*\}}|\\[A-Za-z]+|\w)"
    r"|\s*\^\s*(?:\{\s*(?:\\prime\s*|'|\*|-1)+\}|\\prime|\*))*)"
)
#: Names of an answer: `x`, `x_1`, `m_{\max}`, `\theta`, `AB`, `\vec{v}`, `f(3)`, `P(A)`.
NAME = rf"(?:{_LETTERS}(?:\s*\([^()=<>]*\))?)"
_NAMED = re.compile(rf"^({NAME}|\(\s*{_LETTERS}(?:\s*,\s*{_LETTERS})+\s*\))\s*=\s*")
_MEMBER = re.compile(rf"^{NAME}\s*\\in(?![A-Za-z])\s*")
_DOMAIN = re.compile(r"^\(?\s*[A-Za-z](?:_\w)?\s*\\in\s*\\mathbb\s*\{?[ZNQRC]\}?\s*\)?$")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt)(?![A-Za-z])")
_SPACE = re.compile(r"((?<=[A-Za-z])\s+(?=[A-Za-z])|(?<=\d)\s+(?=\d)|(?<=\\)\s)|\s+")


_MATRIX = re.compile(
    r"^\(?\\begin\{(?P<kind>[pbB]?matrix|array)\}(?:\{[clr|\s]*\})?(?P<rows>.*)\\end\{(?P=kind)\}\)?$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Structure:
    """A sequence of values in brackets.

    Attributes:
        opening, closing: the brackets, empty for a list without any.
        items: the values, normalised.
    """

    opening: str
    closing: str
    items: tuple[str, ...]


def without_spaces(text: str) -> str:
    """The text without spaces, except those between letters or between digits."""
    return _SPACE.sub(lambda m: " " if m[1] else "", re.sub(r"\\\\\s+", r"\\\\", text))


def strip_domains(text: str) -> str:
    r"""The text without list items such as `k \in \mathbb{Z}`, the domain of a variable."""
    parts = split_top_level(text)
    kept = [part for part in parts if not _DOMAIN.match(part)]
    return ", ".join(kept) if 0 < len(kept) < len(parts) else text


def structure_of(text: str) -> Structure | None:
    """The structure of a text, or None for a single value."""
    parts = split_top_level(text)
    if len(parts) > 1:
        return Structure("", "", tuple(parts)) if all(parts) else None
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}"):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    if not _closed(inner):
        return None
    items = split_top_level(inner)
    if (len(items) > 1 or opening == "\\{") and all(items):
        return Structure(opening, closing, tuple(items))
    return None


def vector_entries(text: str) -> tuple[str, ...] | None:
    """The entries of a matrix of one column or one row; None for any other text."""
    match = _MATRIX.match(text)
    if match is None:
        return None
    rows = [re.split(r"(?<!\\)&", row) for row in re.split(r"\\\\", match["rows"]) if row.strip()]
    cells = rows[0] if len(rows) == 1 else [row[0] for row in rows if len(row) == 1]
    if len(cells) < 2 or len(rows) not in (1, len(cells)):
        return None
    return tuple(cell.strip() for cell in cells)


def _closed(inner: str) -> bool:
    """True if the brackets of a text are balanced, so that the pair around it belongs together."""
    depth = 0
    for token in re.findall(r"\\[{}]|[(){}\[\]]", inner):
        depth += 1 if token in ("\\{", "{", "(", "[") else -1
        if depth < 0:
            return False
    return depth == 0


def strip_grouping(text: str) -> str:
    """The text without outer brackets that only group."""
    while text[:1] + text[-1:] in ("()", "{}") and _closed(text[1:-1]) and not structure_of(text):
        text = text[1:-1].strip()
    return text


def split_name(text: str, other: str) -> tuple[str, str]:
    r"""Split a text such as `(x,y)=(1,2)` into the name and the value; the name may be empty.

    In `x = 5` or `f(3) = 5` the name is not split off, because equations are compared as equations,
    unless the `other` text has no relation. In a membership such as `x \in [0,1]` the name is
    dropped.
    """
    if member := _MEMBER.match(text):
        return "", text[member.end() :]
    named = _NAMED.match(text)
    if not named or len(split_top_level(text)) > 1:
        return "", text
    value = text[named.end() :]
    if structure_of(value) or not (_RELATION.search(value) or _RELATION.search(other)):
        return named[1], value
    return "", text
