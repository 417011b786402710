"""Reads an Ollama Modelfile as Ollama does, and renders its template as Go does.

What is stated here was checked against Go's text/template and the rules of Ollama's parser: letters
that do not print are dropped, a value in quotes has no escapes, and an action begins at the first
of the braces.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

_VALUE = re.compile(
    r'\s*(?:"""(?P<long>.*?)"""|"(?P<short>[^"]*)"|(?P<bare>[^\n]*))[ \t]*(?:\n|$)', re.S
)
_ACTION = re.compile(r'\{\{(?: (?P<field>\.Prompt) |(?P<text>"[^"]*"))\}\}')


@dataclass
class Modelfile:
    """The instructions of a Modelfile.

    Attributes:
        weights: what FROM names.
        template: of the prompt, in Go's language.
        parameters: (name, value) of each PARAMETER, in their order.
    """

    weights: str = ""
    template: str = ""
    parameters: list[tuple[str, str]] = field(default_factory=list)

    def prompt(self, question: str) -> str:
        """The text that a question is sent as."""
        parts, at = [], 0
        while (brace := self.template.find("{{", at)) >= 0:
            action = _ACTION.match(self.template, brace)
            assert action is not None, f"no action: {self.template[brace : brace + 40]!r}"
            said = action["text"]
            parts += [self.template[at:brace], question if said is None else _string(said)]
            at = action.end()
        return "".join([*parts, self.template[at:]])


def read(text: str) -> Modelfile:
    """A Modelfile's instructions; an `AssertionError` where it has others than these."""
    text = "".join(letter for letter in text if letter.isprintable() or letter in "\n\r\t")
    found, at = Modelfile(), 0
    while at < len(text):
        word = re.compile(r"(FROM|TEMPLATE|PARAMETER (?P<name>\w+)) ").match(text, at)
        assert word is not None, text[at : at + 40]
        value = _VALUE.match(text, word.end())
        assert value is not None, text[at : at + 40]
        said = next(group for group in value.groups() if group is not None)
        if word["name"]:
            found.parameters.append((word["name"], said))
        elif word[1] == "FROM":
            found.weights = said
        else:
            found.template = said
        at = value.end()
    return found


def _string(literal: str) -> str:
    """The value of a string of Go's that has no escapes but \\UXXXXXXXX."""
    escaped = re.sub(
        r"\\U([0-9a-f]{8})", lambda found: json.dumps(chr(int(found[1], 16)))[1:-1], literal
    )
    value: str = json.loads(escaped)
    return value
