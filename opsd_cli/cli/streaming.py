"""The completions of `opsd sample` on a terminal while they are decoded.

One completion is shown as its text, several by the end of each one's text. What is shown is drawn
in place and goes when the completions are complete and printed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from opsd_cli.cli.console import Output
from opsd_cli.cli.listeners import LiveListener
from opsd_cli.printable import visible
from opsd_cli.prompts.rendering import Tokenizer, before_possible_stop, completion_text
from opsd_cli.rollouts.watching import Unfinished

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

#: Tokens at the end of a completion that are decoded for the screen: of one alone, of one of many.
ALONE, BESIDE = 2000, 100
#: What a tokenizer writes for bytes that are no character, or not yet.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def text_so_far(
    ids: Sequence[int],
    tokenizer: Tokenizer,
    stop_ids: Collection[int],
    most: int = ALONE,
    stop: Sequence[str] = (),
) -> str:
    """The text of an unfinished completion, at most its last `most` tokens.

    A character may take several tokens. Its first ones are left out until the last one is there, as
    is the rest of a character that begins before the tokens that are decoded. An end that may be
    the beginning of a stop string is held back until it cannot be.
    """
    text = completion_text(ids[-most:], tokenizer, stop_ids).rstrip(_INCOMPLETE)
    text = before_possible_stop(text, stop)
    return text.lstrip(_INCOMPLETE) if len(ids) > most else text


class StreamListener(LiveListener):
    """Shows unfinished completions below the progress.

    Args:
        tokenizer: decodes them.
        stop_ids: token ids that end a completion.
        stop: strings that end a completion.
    """

    drawings_per_second = 8

    def __init__(
        self,
        out: Output,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        stop: Sequence[str] = (),
    ) -> None:
        super().__init__(out)
        self._tokenizer, self._stop_ids, self._stop = tokenizer, stop_ids, stop
        self._texts: list[tuple[str, str]] = []
        self._many = False

    def unfinished(self, completions: Unfinished) -> None:
        """Take the texts so far; called in the thread that decodes."""
        self._many = self.pace.total > 1
        most = BESIDE if self._many else ALONE
        rows = self.out.messages.height
        self._texts = [
            (
                f"{request.problem_id}, completion {request.sample_index + 1}",
                text_so_far(ids, self._tokenizer, self._stop_ids, most, self._stop),
            )
            for request, ids in completions[:rows]
        ]

    def panel(self) -> RenderableType:
        from rich.console import Group

        return Group(super().panel(), _Tail(self._texts, self._many))


class _Tail:
    """The end of each text, in as many lines as the screen has room for."""

    def __init__(self, texts: Sequence[tuple[str, str]], many: bool) -> None:
        self._texts, self._many = texts, many

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        room = max(1, options.size.height - 6)
        if not self._many:
            for _, text in self._texts[:1]:
                yield from Text(visible(text)).wrap(console, options.max_width)[-room:]
            return
        for label, text in self._texts[:room]:
            head = f"{visible(label)}: "
            body = " ".join(visible(text).split())
            while body and Text(head + body).cell_len > options.max_width:
                body = body[1:] if len(body) < 200 else body[-199:]
            yield Text(head + body, no_wrap=True, overflow="ellipsis")
