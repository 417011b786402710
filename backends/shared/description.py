"""How a policy's description writes its numbers."""

from __future__ import annotations


def abbreviated(number: int) -> str:
    """A number of parameters for people: 748.8k, 1.7B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
