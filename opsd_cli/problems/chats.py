"""Chats as columns: the user's turn of a conversation as the question, the answer as the solution.

Sets for supervised fine-tuning hold a list of turns (`messages`, or ShareGPT's `conversations`).
Only chats of one question are problems: one user turn, answered by one assistant turn, with or
without a system turn before it, which is left out. Of any other chat both texts are missing, and
its row is counted as one without a question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: Columns that hold a list of turns.
CHATS = ("messages", "conversations", "conversation")
USER, ASSISTANT = "user", "assistant"
#: Columns that are made of a chat, in the order in which they are recognised.
QUESTIONS = tuple(f"{name}.{USER}" for name in CHATS)
SOLUTIONS = tuple(f"{name}.{ASSISTANT}" for name in CHATS)
#: Names of the roles in both formats.
_ROLES = {
    "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT,
    "system": "system", "developer": "system",
}  # fmt: skip


def with_chat_columns(names: Sequence[str]) -> list[str]:
    """The columns of a table, with two more for each column of chats."""
    found = [name for name in names if name in CHATS]
    return [*names, *(f"{name}.{role}" for name in found for role in (USER, ASSISTANT))]


def chat_rows(
    rows: Iterable[Mapping[str, Any]], wanted: Iterable[str]
) -> Iterable[Mapping[str, Any]]:
    """The rows, with the wanted columns that are made of chats."""
    made = [name for name in (*QUESTIONS, *SOLUTIONS) if name in set(wanted)]
    return _made(rows, made) if made else rows


def _made(rows: Iterable[Mapping[str, Any]], made: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        texts = {}
        for name in made:
            column, _, role = name.partition(".")
            texts[name] = _turns(row.get(column)).get(role)
        yield {**row, **texts}


def _turns(chat: Any) -> dict[str, str]:
    """The texts of a chat of one question, by role; empty for any other value."""
    if not isinstance(chat, list):
        return {}
    texts: dict[str, str] = {}
    for turn in chat:
        if not isinstance(turn, Mapping):
            return {}
        role = _ROLES.get(str(turn.get("role", turn.get("from"))))
        text = _text(turn.get("content", turn.get("value")))
        if role is None or text is None or role in texts or ASSISTANT in texts:
            return {}
        if role != "system":
            texts[role] = text
    return texts if len(texts) == 2 else {}


def _text(content: Any) -> str | None:
    """A turn's text; of several parts, only if all are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    return "".join(parts) if parts and all(isinstance(p, str) for p in parts) else None  # type: ignore[arg-type]
