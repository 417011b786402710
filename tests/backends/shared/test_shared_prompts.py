"""How much of the prompts of a call is read once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.interface import RolloutRequest
from backends.shared.shared_prompts import shared_tokens


def prompts(beginning: int, *own: tuple[int, ...]) -> list[RolloutRequest]:
    """Prompts that begin with the same so many tokens."""
    begin = tuple(range(500, 500 + beginning))
    return [RolloutRequest(str(n), 0, begin + rest, 1) for n, rest in enumerate(own)]


@pytest.mark.parametrize(
    ("beginning", "own", "expected"),
    [
        (100, ((1,), (2,)), 96),
        (64, ((1,), (2,)), 64),
        (63, ((1,), (2,)), 0),
        (64, ((), (2,)), 0),  # a prompt's last token is read with the first one drawn
        (65, ((), (2,)), 64),
        (100, ((1,), (1,)), 0),  # one prompt, which is read once anyway
        (60, ((1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 2, 3, 4, 7)), 64),
        (60, ((1, 2, 3, 4, 5), (9,), (1, 2, 3, 4, 7)), 0),
    ],
)
def test_shared_tokens_are_whole_multiples_of_the_common_beginning(
    beginning: int, own: tuple[tuple[int, ...], ...], expected: int
) -> None:
    requests = prompts(beginning, *own)
    assert shared_tokens(requests) == expected


def test_shared_tokens_that_a_request_states_are_not_counted_again() -> None:
    requests = [replace(request, shared=3) for request in prompts(100, (1,), (2,))]
    assert shared_tokens(requests[:1]) == shared_tokens(requests) == 3
    assert requests == prompts(100, (1,), (2,))
    assert shared_tokens([]) == 0
