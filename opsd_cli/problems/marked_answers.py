"""The answer that a worked solution marks: in a box, or on GSM8K's last line."""

from __future__ import annotations

import re

from opsd_cli.grading.extract import last_boxed

#: The answer line of a GSM8K solution: "#### 18".
HASHES = re.compile(r"^####[ \t]*(\S.*)$", re.MULTILINE)


def marked_answer(text: str) -> str | None:
    r"""The last `\boxed{...}` of a text, else what follows its last "####"."""
    boxed = last_boxed(text)
    hashes = HASHES.findall(text)
    return boxed or (hashes[-1].strip() if hashes else None)


def last_marked(solution: str) -> str | None:
    """The last marked answer, searched from the end: solutions are long, and every row has one."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        start = solution.rfind("\n####")
    return marked_answer(solution[start:]) if start >= 0 else None
