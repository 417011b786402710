"""Where questions come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question with what is known of its solution and answer."""

    id: str
    question: str
    solution: str | None
    answer: str | None
    source: str
