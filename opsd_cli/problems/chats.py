"""Chats as columns: a conversation as the question, its last answer as the solution.

Sets for supervised fine-tuning hold a list of turns (`messages`, or ShareGPT's `conversations`):
at most one system turn, which comes first, and then user and assistant turns in alternation, the
user's first. The last assistant turn, where it ends the chat, is the solution; all turns before it
are the conversation that the question consists of (`opsd_cli.problems.Problem.turns`). A chat that
ends with a user turn is a question without a solution.

Thoughts of earlier answers (up to `</think>`) are left out, as the chat templates of thinking
models leave them out. Every turn is stripped of the white space around it, as questions are.

Other lists of turns are counted as chats that cannot be used, with the reason: tool calls and their
results, parts that are not text, a system turn in another place, two turns of one role in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: Columns that hold a list of turns.
CHATS = ("messages", "conversations", "conversation")
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
#: Columns that are made of a chat, in the order in which they are recognised.
QUESTIONS = tuple(f"{name}.{USER}" for name in CHATS)
SOLUTIONS = tuple(f"{name}.{ASSISTANT}" for name in CHATS)
#: Names of the roles in both formats.
_ROLES = {
    "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT,
    "system": SYSTEM, "developer": SYSTEM,
}  # fmt: skip
_THOUGHTS_END = "</think>"

Turns = tuple[tuple[str, str], ...]
"""(role, text) of each turn, in order."""


class Conversation(str):
    """The question that a chat asks, as text for people (`as_text`), with its turns.

    Attributes:
        turns: those before the answer; the last is the user's. Empty where the user's turn is all
            there is: such a chat is a plain question.
        fault: why the chat cannot be used; None if it can.
    """

    turns: Turns
    fault: str | None

    def __new__(cls, turns: Turns = (), fault: str | None = None) -> Conversation:
        self = super().__new__(cls, as_text(turns))
        self.turns = turns if len(turns) > 1 else ()
        self.fault = fault
        return self


def as_text(turns: Turns) -> str:
    """A conversation as text: the user's turn, or several turns with their roles.

    The system turn is left out: two chats of one question under different system turns ask the same
    where training problems are compared with those that are measured.
    """
    said = [(role, text) for role, text in turns if role != SYSTEM]
    if len(said) == 1:
        return said[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in said)


def with_chat_columns(names: Sequence[str]) -> list[str]:
    """The columns of a table, with two more for each column of chats."""
    found = [name for name in names if name in CHATS]
    return [*names, *(f"{name}.{role}" for name in found for role in (USER, ASSISTANT))]


def chat_rows(
    rows: Iterable[Mapping[str, Any]], wanted: Iterable[str]
) -> Iterable[Mapping[str, Any]]:
    """The rows, with the wanted columns that are made of chats.

    A question is a `Conversation`, or None where the row has no chat; a solution is text or None.
    """
    made = [name for name in (*QUESTIONS, *SOLUTIONS) if name in set(wanted)]
    return _made(rows, made) if made else rows


def _made(rows: Iterable[Mapping[str, Any]], made: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        values: dict[str, str | None] = {}
        for name in made:
            column, _, role = name.partition(".")
            question, solution = _divided(row.get(column))
            values[name] = question if role == USER else solution
        yield {**row, **values}


def _divided(chat: Any) -> tuple[Conversation | None, str | None]:
    """A chat's question and solution; None for what it lacks, or where it is no list of turns."""
    if not isinstance(chat, list) or not chat:
        return None, None
    turns: list[tuple[str, str]] = []
    for number, turn in enumerate(chat, start=1):
        read = _turn(turn, turns)
        if isinstance(read, str):
            return Conversation(fault=f"{read} (turn {number})"), None
        turns.append(read)
    solution = turns.pop()[1] if turns[-1][0] == ASSISTANT else None
    if not turns or turns[-1][0] != USER:
        return Conversation(fault="no user turn"), None
    earlier = [(role, _answer(text) if role == ASSISTANT else text) for role, text in turns]
    return Conversation(tuple(earlier)), solution


def _turn(turn: Any, before: Sequence[tuple[str, str]]) -> tuple[str, str] | str:
    """(role, text) of a turn, or why a chat with it after those before cannot be used."""
    if not isinstance(turn, Mapping):
        return "a turn that is no object"
    name = str(turn.get("role", turn.get("from")))
    role = _ROLES.get(name)
    if role is None:
        return f"a turn of the role {name[:20]!r}"
    if turn.get("tool_calls") or turn.get("function_call"):
        return "a tool call"
    text = _text(turn.get("content", turn.get("value")))
    if text is None:
        return "a turn with more than text"
    if not text.strip():
        return "an empty turn"
    previous = before[-1][0] if before else None
    if role == SYSTEM and before:
        return "a system turn that is not the first"
    if role == previous:
        return f"two {role} turns in a row"
    if role == ASSISTANT and previous != USER:
        return "an answer before any question"
    return role, text.strip()


def _answer(text: str) -> str:
    """An earlier answer without its thoughts; all of it where nothing else is there."""
    return text.rpartition(_THOUGHTS_END)[2].strip() or text


def _text(content: Any) -> str | None:
    """A turn's text; of several parts, only if all are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    return "".join(parts) if parts and all(isinstance(p, str) for p in parts) else None  # type: ignore[arg-type]
