r"""Annotations of an answer: choice labels, announcements, comments, quantifiers, set builders.

`\text{(B)}\ 27`, `\text{The answer is }27`, `27 \text{ (since } 3^3 = 27)`, `f(x) = 2x \text{ for
all } x` and `\{x : x > 2\}` mean B or 27, 27, 27, `f(x) = 2x` and `x > 2`. An annotation that
changes the meaning of the answer (modulo, base, "or", "rejected") is kept, and the answer compared
as a whole.
"""

from __future__ import annotations

import re

#: Words that change the meaning of the answer before them.
_MEANING_WORDS = frozenset(
    """
    no not never or if when unless except excluding exclude without false wrong incorrect invalid
    impossible extraneous rejected reject maybe perhaps mod modulo base times plus minus
    """.split()  # noqa: SIM905
)
_ANNOUNCED = re.compile(
    r"^\\text\{\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answers?"
    r"\s*(?:is|are|:|=)?\s*:?\s*(?P<rest>[^{}]*)\}\s*[:=]?\s*(?P<after>.*)$",
    re.IGNORECASE,
)
_COMMENT_IN_TEXT = re.compile(
    r"^(?P<answer>.*[^\s=+\-*/^_,(<>\\])\s*(?:\\text\{\s*\(|\(\s*\\text\{)(?P<words>[^{}]*)\}"
    r"(?P<more>.*)$"
)
_COMMENT = re.compile(r"^(?P<answer>.*[\d})\]])\s*\((?P<words>[A-Za-z][A-Za-z ,.'\-]{4,})\)$")
_FOR_ALL = re.compile(
    r"\s*,?\s*(?:\\text\{\s*,?\s*(?:for|where)\s*(?:all|any|every|each|some)?\s*(?P<words>[^{}]*)\}"
    r"|(?:\\text\{\s*)?\bfor\s+(?:all|any|every|each)\b\s*\}?|\\forall(?![A-Za-z]))"
    r"(?P<of>[^=<>0-9]*?)$"
)
#: The variables and number sets of a quantifier without exceptions.
_RANGE = re.compile(
    r"^(?:\\text\{[^{}]*\}|\\in(?![A-Za-z])|\\mathbb\s*\{?[A-Z]\}?(?:\^\{?\+\}?)?|[A-Za-z](?:_\w)?"
    r"|\\[a-z]+|[\s,.])*$"
)
_LABEL = re.compile(
    r"^(?:\\text\{\s*\(?(?P<a>[A-J])\s*[).:]\s*(?P<inner>[^{}]*)\}"
    r"|\(\s*\\text\{(?P<b>[A-J])\}\s*\)|\((?P<c>[A-J])\)|\\text\{\(?(?P<d>[A-J])\)?\}\s*[:.)]"
    r"|(?P<e>[A-J])\s*[).:](?=\s))\s*(?P<rest>.*)$"
)
_LETTER = re.compile(r"^\(?(?:\\text\{\s*\(?\s*([A-J])\s*[).]*\s*\}|([A-J]))\)?\.?$")
_BUILDER = re.compile(
    r"^\\\{\s*\(?(?P<name>\\?[A-Za-z]+(?:_\w)?)\)?\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?"
    r"(?:\\mid(?![A-Za-z])|\||:)\s*(?P<condition>.*)\\\}$"
)
_SUCH_THAT = re.compile(r"^(\\\{[^|:]*?)\s*(?:\\mid(?![A-Za-z])|\||:)\s*(?=[^|]*\\\}$)")
_CONJUNCTIVE = re.compile(r"[,;]")


def strip_annotations(text: str) -> str:
    """A normalised answer without announcements, comments and quantifiers."""
    if announced := _ANNOUNCED.match(text):
        rest = announced["rest"].strip()
        inner = rest if re.fullmatch(r"[-+\d.,/()\s]*", rest) else rf"\text{{{rest}}}"
        text = f"{inner} {announced['after']}".strip() or text
    found = _FOR_ALL.search(text)
    if found and found.start() and _RANGE.match(found["of"]):
        words = set(re.findall(r"[a-z]+", (found["words"] or "").lower()))
        if not words & _MEANING_WORDS and not re.search(r"\d", found["words"] or ""):
            text = text[: found.start()].strip()
    if text.endswith((")", ")}")):
        for pattern in (_COMMENT_IN_TEXT, _COMMENT):
            comment = pattern.match(text)
            if comment and _is_comment(comment["words"], comment["answer"]):
                text = comment["answer"].strip()
    text = _SUCH_THAT.sub(r"\g<1> : ", text, count=1)
    builder = _BUILDER.match(text)
    if builder and not _CONJUNCTIVE.search(builder["condition"].replace("\\;", "")):
        return builder["condition"].strip()
    return text


def _is_comment(words: str, answer: str) -> bool:
    """True if words in parentheses leave the meaning of the answer before them unchanged."""
    found = re.findall(r"[a-z]+", words.lower())
    balanced = all(answer.count(a) == answer.count(b) for a, b in ("()", "{}", "[]"))
    return balanced and any(len(w) > 1 for w in found) and not _MEANING_WORDS.intersection(found)


def split_choice_label(text: str) -> tuple[str, str]:
    """Split an answer into its multiple-choice label and the rest; either may be empty."""
    if letter := _LETTER.match(text):
        return letter[1] or letter[2], ""
    label = _LABEL.match(text)
    if label is None:
        return "", text
    letter_found = next(label[name] for name in "abcde" if label[name])
    inner = (label["inner"] or "").strip()
    if inner and not re.fullmatch(r"[-+\d.,/\s]*", inner):
        inner = rf"\text{{{inner}}}"
    return letter_found, f"{inner} {label['rest']}".strip()
