"""The Modelfile for Ollama: what of a prompt it can hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backends.interface import Sampling
from opsd_cli.ollama import modelfile
from opsd_cli.prompts.rendering import Template, student_prompt
from tests.support import modelfiles

SAMPLING = Sampling(0.7, 0.9, 20, max_new_tokens=100)


class Plain:
    """A tokenizer without a chat template that begins each text with <s>."""

    bos = "<s>"
    control_tokens = ("<s>",)

    def render_chat(self, messages: Any, generation_prompt: bool, **arguments: Any) -> str:
        return self.bos + "".join(f"{message['content']}\n\n" for message in messages)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


POLICY: Any = SimpleNamespace(tokenizer=Plain(), stop_ids=frozenset({ord("$"), ord('"')}))


def test_modelfile_without_the_bos_that_the_converted_tokenizer_adds() -> None:
    text = modelfile(POLICY, Template("Q: {question}", "Be brief."), SAMPLING, "model.gguf")
    assert text is not None
    assert 'TEMPLATE """Be brief.\n\nQ: {{ .Prompt }}\n\n"""\n' in text
    for line in ("temperature 0.7", "top_k 20", "num_ctx 2148", "repeat_penalty 1.0", 'stop "$"'):
        assert f"PARAMETER {line}\n" in text
    assert text.count("PARAMETER stop") == 1


def test_modelfile_escapes_what_go_templates_would_read() -> None:
    text = modelfile(POLICY, Template("{{x}} {question}"), SAMPLING, "model.gguf")
    assert text is not None and '{{"{{"}}x}} {{ .Prompt }}' in text


@pytest.mark.parametrize(
    "template",
    [
        "{{x}} {{{ {question}",
        "\\text{{question}}",  # the placeholder within braces of its own
        "{\u00a0}\u3000{question}\u200d\x0b",  # which Ollama drops where they stand as they are
        '"{question}"',
    ],
)
def test_modelfile_renders_braces_quotes_and_letters_that_do_not_print(template: str) -> None:
    sampling = Sampling(0.7, 0.9, 20, max_new_tokens=100, stop=("\n\n", ' "a" b'))
    text = modelfile(POLICY, Template(template), sampling, "model.gguf")
    assert text is not None
    found = modelfiles.read(text)
    wanted = student_prompt("3 < {{x}}?", Template(template), POLICY.tokenizer).text
    assert found.prompt("3 < {{x}}?") == wanted.removeprefix("<s>")
    assert [value for name, value in found.parameters if name == "stop"] == ["$", "\n\n", ' "a" b']


def test_modelfile_is_not_made_of_a_stop_string_with_letters_that_ollama_drops() -> None:
    sampling = Sampling(0.7, 0.9, 20, max_new_tokens=100, stop=("a\u00a0b",))
    assert modelfile(POLICY, Template("{question}"), sampling, "model.gguf") is None


def test_modelfile_is_not_made_of_text_that_it_cannot_hold() -> None:
    assert modelfile(POLICY, Template('{question} """'), SAMPLING, "model.gguf") is None
