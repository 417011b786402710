"""Text on the screen while it is decoded, with stop strings: what was shown is never taken back."""

from __future__ import annotations

import io

import pytest

from backends.interface import RolloutRequest
from opsd_cli.cli.console import Output
from opsd_cli.cli.streaming import StreamListener, text_so_far
from opsd_cli.cli.terminal import PlainConsole
from opsd_cli.prompts.rendering import before_possible_stop, before_stop
from tests.support.small_tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer()


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("42\n\nQue", ("\n\nQuestion:",), "42"),
        ("42\n\nQuit", ("\n\nQuestion:",), "42\n\nQuit"),
        ("42\n\nQuestion: 7", ("\n\nQuestion:",), "42"),
        ("a aa", ("aab", " aac"), "a"),
        ("aXbX", ("X",), "a"),
        ("plain", (), "plain"),
    ],
)
def test_stop_string_that_may_have_begun_is_held_back(
    text: str, stop: tuple[str, ...], shown: str
) -> None:
    assert before_possible_stop(text, stop) == shown


@pytest.mark.parametrize("stop", [("\n\nQuestion:",), ("\n\n", "###"), ("aab", "ba")])
def test_streamed_text_is_a_beginning_of_the_text_before_the_stop_string(
    stop: tuple[str, ...],
) -> None:
    for text in ("It is 42.\n\nQuestion: next", "a\n#\n##b###c", "abaaababb\n\n"):
        ids = TOKENIZER.encode(text)
        shown = [text_so_far(ids[:n], TOKENIZER, (), stop=stop) for n in range(len(ids) + 1)]
        whole = before_stop(text, stop)
        assert all(whole.startswith(part) for part in shown)
        assert [len(part) for part in shown] == sorted(len(part) for part in shown)
        assert whole.startswith(text) or shown[-1] == whole


def test_streamed_completion_does_not_show_its_stop_string() -> None:
    listener = StreamListener(Output(quiet=True), TOKENIZER, (), ("\n\nQuestion:",))
    listener.phase("sampling", 1)
    page = PlainConsole(file=io.StringIO(), width=80, height=20, force_terminal=False)
    for text in ("The answer is 42.\n\nQuest", "The answer is 42.\n\nQuestion: 7"):
        ids = TOKENIZER.encode(text)
        listener.unfinished([(RolloutRequest("a", 0, (5,), 1), ids)])
        with page.capture() as caught:
            page.print(listener.panel())
        drawn = caught.get()
        assert "The answer is 42." in drawn and "Quest" not in drawn
