"""Chat templates that are hostile: refused in one line, in bounded time and memory."""

from __future__ import annotations

import sys
import threading

import pytest

from backends.shared import chat_templates
from backends.shared.tokenizer import HuggingFaceTokenizer
from opsd_cli.errors import ConfigError, ModelError
from tests.support import chat_models

TURNS = [{"role": "user", "content": "hello"}]
ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x",
    "macros": (
        "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}"
        "{% endmacro %}{{ twice(60) }}"
    ),
    "one long operation": "{{ 9 ** (9 ** 9) }}",
}


def with_template(template: str) -> HuggingFaceTokenizer:
    wrapped = chat_models.tokenizer("qwen3")
    wrapped.chat_template = template
    return HuggingFaceTokenizer(wrapped)


@pytest.mark.parametrize("kind", ENDLESS)
def test_chat_template_that_never_ends_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_templates, "SECONDS", 0.3)
    with pytest.raises(ModelError, match=r"still at work after 0\.3 seconds") as caught:
        with_template(ENDLESS[kind]).render_chat(TURNS, True)
    assert "chat_template.jinja" in caught.value.hint
    monkeypatch.undo()  # and the next is rendered as if nothing had been
    assert with_template("{{ messages[0].content }}").render_chat(TURNS, True) == "hello"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * (20 * 1024 * 1024) }}", "characters"),
        ("{{ 'a' * (5 * 1024 * 1024 * 1024) }}", "of memory"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "calls itself"),
    ],
)
def test_chat_template_that_asks_for_too_much_memory_is_refused(template: str, said: str) -> None:
    if "memory" in said and sys.platform != "linux":
        pytest.skip("only Linux limits a process's memory")
    with pytest.raises(ModelError, match=said):
        with_template(template).render_chat(TURNS, True)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ a.b.c }}", "{% if %}", "{{ 'a' + 1 }}"])
def test_chat_template_that_fails_is_refused(template: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_template(template).render_chat(TURNS, True)
    assert "refuses the prompt" in caught.value.message and "\n" not in caught.value.message


def test_chat_templates_are_rendered_from_threads() -> None:
    found: list[str] = []

    def render(number: int) -> None:
        tokenizer = with_template("{{ messages[0].content }}" + f"-{number}")
        found.extend(tokenizer.render_chat(TURNS, True) for _ in range(20))

    threads = [threading.Thread(target=render, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"hello-{n}" for n in range(4) for _ in range(20))


def test_template_worker_renders_as_transformers_does() -> None:
    for family in chat_models.FAMILIES:
        wrapped = chat_models.tokenizer(family)
        if not wrapped.chat_template or "strftime_now" in wrapped.chat_template:
            continue
        for opening in (False, True):
            own = wrapped.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=opening)
            assert HuggingFaceTokenizer(wrapped).render_chat(TURNS, opening) == own


def test_token_without_an_embedding_row_is_refused() -> None:
    wrapped = chat_models.tokenizer("qwen3")
    tokenizer = HuggingFaceTokenizer(wrapped, rows=50)
    with pytest.raises(ModelError, match="the model knows 50"):
        tokenizer.encode("~ÿ" * 30)
