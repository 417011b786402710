"""A grader of instructions with constraints, as `grading.grader=FILE.py:FUNCTION` takes it.

It gives the share of the constraints that a completion keeps, and says which one it breaks. It
imports nothing, so it can be copied and changed.
"""

from __future__ import annotations

from typing import Any


def score(problem: Any, completion: str) -> tuple[float, str]:
    """The share of the three constraints that hold, and what is wrong; no text if all hold.

    `problem.fields` has `count` (of words), `first` and `avoid` (a word each).
    """
    words = completion.split()
    count, first, avoid = (problem.fields[name] for name in ("count", "first", "avoid"))
    faults = []
    if len(words) != count:
        faults.append(f"{len(words)} words, not {count}")
    if words[:1] != [first]:
        faults.append(f"{first} is not first")
    if avoid in words:
        faults.append(f"{avoid} is there")
    return 1 - len(faults) / 3, "; ".join(faults)
