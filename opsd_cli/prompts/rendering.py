"""Rendering of prompts, and the student's prompt: the question and an instruction.

Training, evaluation and `opsd sample` all render through this module, so that every command gives
the model the same prompt (one reproduction of the paper removed the chat template before sampling,
so that student and teacher had different formats). A prompt is rendered to text once and tokenised
once; a completion is only ever appended as token ids.

Templates are filled by replacing the placeholders literally: a question full of braces is safe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from opsd_cli.errors import ConfigError

#: The customary request, as on Qwen3's model card: models are trained on these very words.
ANSWER_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."

#: The published recipes' training prompt; they evaluate without the leading word (docs/recipes.md).
STUDENT_TEMPLATE = "Problem: {question}\n\n" + ANSWER_INSTRUCTION
EVALUATION_TEMPLATE = "{question}\n\n" + ANSWER_INSTRUCTION
#: What users are told of a model without a chat template.
NO_CHAT_TEMPLATE = (
    "the model has no chat template (a base model?): prompts are plain text, with a blank line "
    "after each turn (opsd sample --show-prompts). Worked examples (prompts.few_shot.examples) "
    "show it the form, and stop strings (sampling.stop) end its answers; a template goes into "
    "chat_template.jinja in the model's folder"
)
#: Goes in after the first character of a control token spelled out in somebody's text.
ESCAPE = "\N{WORD JOINER}"


class Tokenizer(Protocol):
    """What prompts need of a tokenizer; `backends.shared.tokenizer` adapts Hugging Face's."""

    @property
    def control_tokens(self) -> Sequence[str]:
        """Texts that the tokenizer encodes as control tokens (turn markers, think tags)."""

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], generation_prompt: bool, **arguments: Any
    ) -> str:
        """The chat template's text for the messages; plain text where the model has none."""

    def encode(self, text: str) -> list[int]:
        """Token ids, with no special token added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text, with control tokens written out."""

    @property
    def has_chat_template(self) -> bool:
        """False if turns are rendered as plain text."""

    @property
    def end_of_turn(self) -> int | None:
        """The token that ends a turn, where the tokenizer names one."""

    @property
    def bos(self) -> str:
        """The text of the token that the tokenizer puts first by itself; empty if it has none."""


@dataclass(frozen=True)
class Template:
    """One role's prompt: the last user turn, what precedes it, and chat-template arguments.

    Attributes:
        text: the last user turn.
        system: the system turn.
        examples: question and answer of each worked example (few-shot), the first turns.
        turns: (role, text) of a conversation's turns between the examples and the last user turn.
        reference: text with {solution} that is added to the system turn; None where the reference
            stands in the user turn.
    """

    text: str
    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[tuple[str, str], ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    reference: str | None = None

    def fill(self, **values: str) -> str:
        """The user turn with each `{name}` replaced, in one pass, never inside a value."""
        parts: list[str] = []
        rest = self.text
        while rest:
            found = [(rest.find("{" + name + "}"), name) for name in values]
            found = sorted((at, name) for at, name in found if at >= 0)
            if not found:
                break
            at, name = found[0]
            parts += [rest[:at], values[name]]
            rest = rest[at + len(name) + 2 :]
        return "".join([*parts, rest])


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: its exact text, its token ids, and the part that opens the answer.

    `opening` is what the chat template writes after the user's turn (the assistant header and, for
    some models, an empty think block): the boundary at which a completion is appended.
    """

    text: str
    ids: tuple[int, ...]
    opening: str
    shortened: bool = False


def require_placeholders(template: str, names: Sequence[str], where: str) -> None:
    """Raise `ConfigError` unless the template has each placeholder exactly once."""
    for name in names:
        count = template.count("{" + name + "}")
        if count != 1:
            raise ConfigError(
                f"{where} must contain {{{name}}} exactly once, found {count}",
                f"write the template with one {{{name}}} where the {name} belongs",
            )


def escape_control_tokens(text: str, tokenizer: Tokenizer) -> str:
    """Escape every control token that the text spells out, so that it is encoded as plain text.

    An invisible joiner is inserted after the token's first character: a reader sees the same text,
    and the tokenizer does not find the control token.
    """
    for token in sorted(tokenizer.control_tokens, key=len, reverse=True):
        if len(token) > 1:
            text = text.replace(token, token[0] + ESCAPE + token[1:])
    return text


def render(template: Template, user_turn: str, tokenizer: Tokenizer) -> Prompt:
    """Render a user turn, after what precedes it, through the chat template; tokenise it once."""
    messages = [{"role": "system", "content": template.system}] if template.system else []
    for question, answer in template.examples:
        messages += [{"role": "user", "content": question}]
        messages += [{"role": "assistant", "content": answer}]
    messages += [{"role": role, "content": content} for role, content in template.turns]
    messages.append({"role": "user", "content": user_turn})
    text = tokenizer.render_chat(messages, generation_prompt=True, **template.arguments)
    closed = tokenizer.render_chat(messages, generation_prompt=False, **template.arguments)
    # A template that treats the last turn differently is cut where the user's words end.
    opening = text[len(closed) :] if text.startswith(closed) else text.rpartition(user_turn)[2]
    return Prompt(text=text, ids=tuple(tokenizer.encode(text)), opening=opening)


def has_thinking_mode(tokenizer: Tokenizer) -> bool:
    """True if the chat template depends on `enable_thinking`."""
    turn = [{"role": "user", "content": "a"}]
    on, off = (
        tokenizer.render_chat(turn, generation_prompt=True, enable_thinking=thinking)
        for thinking in (True, False)
    )
    return on != off


def after_thinking(text: str) -> str:
    """The text after the think block, or all of it where there is none."""
    return text.rpartition("</think>")[2].strip()


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings in it; all of it where there is none."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def before_possible_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string, or before an end that may become one.

    Of a completion that is not finished, this is what stays in its text whatever comes next.
    """
    ended = before_stop(text, stop)
    if ended != text:
        return ended
    longest = max(map(len, stop), default=0)
    for held in range(min(longest - 1, len(text)), 0, -1):
        if any(string.startswith(text[-held:]) for string in stop):
            return text[:-held]
    return text


def completion_text(
    ids: Sequence[int], tokenizer: Tokenizer, stop_ids: Collection[int], stop: Sequence[str] = ()
) -> str:
    """A completion's text as it is graded, shown and stored: without its end.

    The loss includes the end token, or the tokens of the stop string, so the ids keep them; in the
    text an end token would be read as part of the answer ("6.<|im_end|>"), and a right answer would
    be graded wrong.

    Args:
        stop: strings that end a completion (`Sampling.stop`); the text ends before the first.
    """
    end = len(ids)
    while end and ids[end - 1] in stop_ids:
        end -= 1
    return before_stop(tokenizer.decode(ids[:end]), stop)


def student_prompt(question: str, template: Template, tokenizer: Tokenizer) -> Prompt:
    """The student's prompt for a question."""
    question = escape_control_tokens(question, tokenizer)
    return render(template, template.fill(question=question), tokenizer)
