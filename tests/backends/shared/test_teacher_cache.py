"""Which batches' hidden states are kept, and for how long; the states are numbers here."""

from __future__ import annotations

from backends.interface import DivergenceBatch, DivergenceItem
from backends.shared.teacher_cache import TeacherCache
from opsd_cli.losses.divergence import DivergenceSpec


def batch_of(token: int, again: bool = True) -> DivergenceBatch:
    item = DivergenceItem((1,), (2,), (token,))
    return DivergenceBatch((item,), DivergenceSpec(), "initial", again)


class Read:
    """Reads batches with a cache; `read` has a pass over each, True if its teacher was read."""

    def __init__(self) -> None:
        self.cache: TeacherCache[int] = TeacherCache()

    def __call__(self, *batches: DivergenceBatch) -> list[bool]:
        found = []
        for batch in batches:
            passes: list[int] = []
            cached = self.cache.start(batch)
            (token,) = batch.items[0].completion
            state = self.cache.hidden_states([0], lambda passes=passes, token=token: (
                passes.append(1) or token
            ))  # fmt: skip
            assert state == token and cached != bool(passes)
            found.append(bool(passes))
        return found


def test_teacher_cache_keeps_the_two_batches_of_an_update() -> None:
    read, loss, anchor, other = Read(), batch_of(5), batch_of(6), batch_of(7, again=False)
    assert read(loss, anchor) == [True, True]
    read.cache.updated()
    assert read(loss, other, anchor, other) == [False, True, False, True]


def test_teacher_cache_drops_the_batches_of_an_earlier_update() -> None:
    read, loss, anchor = Read(), batch_of(5), batch_of(6)
    read(loss, anchor)
    read.cache.updated()
    assert read(batch_of(8), loss, anchor) == [True, True, True]


def test_teacher_cache_keeps_no_third_batch_and_nothing_after_it_is_cleared() -> None:
    read, loss, anchor, third = Read(), batch_of(5), batch_of(6), batch_of(7)
    assert read(loss, anchor, third, anchor, third) == [True, True, True, False, False]
    read.cache.clear()
    assert read(anchor) == [True]
