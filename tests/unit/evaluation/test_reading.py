"""Reading in parts: progress in tokens, and an end where the user asks to stop."""

from __future__ import annotations

import pytest

from opsd_cli.errors import Interrupted
from opsd_cli.evaluation.reading import AT_ONCE, Reading
from opsd_cli.tracking.listener import Listener


class Told(Listener):
    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.done = 0
        self.tokens: list[tuple[int, int]] = []

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self.phases.append((name, total))

    def advance(self, units: int = 1) -> None:
        self.done += units

    def learning(self, done: int, total: int) -> None:
        self.tokens.append((done, total))


def test_reading_reports_the_tokens_of_each_part_that_is_read() -> None:
    told = Told()
    reading = Reading("a set", told, lambda: told.done > 2 * AT_ONCE)  # only once all is read
    reading.begin("a set: likelihood", [2] * AT_ONCE + [1] * (AT_ONCE + 3))
    items = list(range(AT_ONCE + 3))
    assert [len(part) for part in reading.parts(items[:AT_ONCE])] == [AT_ONCE]
    assert [len(part) for part in reading.parts(items)] == [AT_ONCE, 3]
    assert told.phases == [("a set: likelihood", 2 * AT_ONCE + 3)]
    total = 3 * AT_ONCE + 3
    assert told.tokens == [(2 * AT_ONCE, total), (3 * AT_ONCE, total), (total, total)]


def test_reading_ends_after_the_part_in_which_the_user_asks_to_stop() -> None:
    told, read = Told(), 0
    reading = Reading("a set", told, lambda: True)
    reading.begin("a set: likelihood", [1] * 40)
    with pytest.raises(Interrupted, match="stopped after reading 16 of 40 sequences"):
        for part in reading.parts(range(40)):
            read += len(part)
    assert read == told.done == AT_ONCE
