"""The name that a misspelt one was probably meant to be, for a hint."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def suggestion(wrong: str, right: Collection[str]) -> str:
    """As in "did you mean 'answer'? "; empty if no name is close."""
    lowered = {name.casefold(): name for name in right}
    close = difflib.get_close_matches(wrong.casefold(), lowered, n=1, cutoff=0.6)
    return f"did you mean {lowered[close[0]]!r}? " if close else ""
