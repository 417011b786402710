"""Words as answers: compared as words, without case, articles and plural endings."""

from __future__ import annotations

import re

from opsd_cli.grading.annotations import strip_annotations
from opsd_cli.grading.normalise import normalise

_ARTICLES = re.compile(r"\b(?:a|an|the)\s+(?=\w)", re.IGNORECASE)
#: Two letters may be a product, which mathematics compares.
_WORDS = re.compile("[A-Za-z]{3,40}(?:[ -][A-Za-z]{1,40}){0,9}")


def folded(text: str) -> str:
    """Words, or a choice letter such as `(C)`, without case, articles and plural endings."""
    words = re.sub(r"[.,()']", "", _ARTICLES.sub("", text)).replace("-", " ").casefold().split()
    return " ".join(word.removesuffix("s") for word in words)


def are_words(text: str) -> bool:
    r"""True if a text is a few words, and neither mathematics in letters nor words about an answer.

    Normalisation rewrites the former: `pi` to `\pi`, `infinity` to `\infty`, `and` to a comma.
    """
    return bool(_WORDS.fullmatch(text)) and strip_annotations(normalise(text)) == text
