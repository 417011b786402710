r"""What a normalised answer is made of: one thing, or a list, set, tuple or interval of things.

Text only, no mathematics. math-verify is not asked about shapes: it takes `2,2` for `2` and a tuple
for a set, and pairs up the members of sets by a sort that it hopes is the same on both sides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from opsd_cli.grading.normalise import split_top

_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_LETTERS = (
    r"(?:(?:\\(?:angle|triangle|measuredangle|max|min|sup|inf|deg|dim|arg)\s*)?(?:\\(?:dot|ddot|hat|vec|bar|overline|tilde|"
    rf"overrightarrow|mathcal|mathbf|mathfrak)\s*(?:\{{[^{{}}]*\}}|\\?\w)|\\text\{{[^{{}}]*\}}|\\?[A-Za-z]+)"
    rf"(?:'|\s*_\s*(?:{_GROUP}|\\text\{{[^{{}}]*\}}|\\[A-Za-z]+|\w)"
    r"|\s*\^\s*(?:\{\s*(?:\\prime\s*|'|\*|-1)+\}|\\prime|\*))*)"
)
#: What an answer may be called: `x`, `x_1`, `m_{\max}`, `\theta`, `AB`, `\vec{v}`, `f(3)`, `P(A)`.
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
class Shape:
    """A sequence of answers and the brackets around it, none for a bare list."""

    opening: str
    closing: str
    items: tuple[str, ...]


def compact(text: str) -> str:
    """The text without the spaces that cannot matter; one between digits or letters can."""
    return _SPACE.sub(lambda m: " " if m[1] else "", re.sub(r"\\\\\s+", r"\\\\", text))


def without_domains(text: str) -> str:
    r"""Without items such as `k \in \mathbb{Z}`, which say what a letter of another item is."""
    parts = split_top(text)
    kept = [part for part in parts if not _DOMAIN.match(part)]
    return ", ".join(kept) if 0 < len(kept) < len(parts) else text


def shape_of(text: str) -> Shape | None:
    """The sequence that a text is, or None for a single thing."""
    parts = split_top(text)
    if len(parts) > 1:
        return Shape("", "", tuple(parts)) if all(parts) else None
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}"):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    if not _closed(inner):
        return None
    items = split_top(inner)
    if (len(items) > 1 or opening == "\\{") and all(items):
        return Shape(opening, closing, tuple(items))
    return None


def vector_of(text: str) -> tuple[str, ...] | None:
    """The members of a matrix that is one column or one row."""
    match = _MATRIX.match(text)
    if match is None:
        return None
    rows = [re.split(r"(?<!\\)&", row) for row in re.split(r"\\\\", match["rows"]) if row.strip()]
    cells = rows[0] if len(rows) == 1 else [row[0] for row in rows if len(row) == 1]
    if len(cells) < 2 or len(rows) not in (1, len(cells)):
        return None
    return tuple(cell.strip() for cell in cells)


def _closed(inner: str) -> bool:
    """Whether brackets never close more than was opened, so that the outer pair is one pair."""
    depth = 0
    for token in re.findall(r"\\[{}]|[(){}\[\]]", inner):
        depth += 1 if token in ("\\{", "{", "(", "[") else -1
        if depth < 0:
            return False
    return depth == 0


def bare(text: str) -> str:
    """The text without brackets around all of it that only group."""
    while text[:1] + text[-1:] in ("()", "{}") and _closed(text[1:-1]) and not shape_of(text):
        text = text[1:-1].strip()
    return text


def unname(text: str, other: str) -> tuple[str, str]:
    r"""A name that a text gives to what follows, and what follows.

    That is `(x,y)` of `(x,y)=(1,2)`. The name in `x = 5` or `f(3) = 5` is left to math-verify,
    which compares equations, unless the `other` text has no relation at all. Membership, as in
    `x \in [0,1]`, names nothing.
    """
    if member := _MEMBER.match(text):
        return "", text[member.end() :]
    named = _NAMED.match(text)
    if not named or len(split_top(text)) > 1:
        return "", text
    value = text[named.end() :]
    if shape_of(value) or not (_RELATION.search(value) or _RELATION.search(other)):
        return named[1], value
    return "", text
