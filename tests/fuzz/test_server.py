"""Every fault of a vLLM server once; the long form of `tests.fuzz.server` with `--long`."""

from __future__ import annotations

import pytest

from backends.vllm.client import TRIES
from tests.fuzz.server import MOST_REQUESTS, Outcome, at_random, met, table
from tests.support.hostile_behaviours import BEHAVIOURS
from tests.support.hostile_server import Behaviour

CASES = [
    pytest.param(behaviour, number % 2 == 1, id=behaviour.name)
    for number, behaviour in enumerate(BEHAVIOURS)
]


def require_clear(outcome: Outcome) -> None:
    """Check that a run ended well: the same rollouts or one clear line, and few requests."""
    assert outcome.kind in ("survived", "refused"), outcome
    assert "unexpected" not in outcome.line and "\n" not in outcome.line + outcome.hint
    assert outcome.requests <= MOST_REQUESTS
    assert all(0 < wait <= 60 for wait in outcome.waits)


@pytest.mark.parametrize(("behaviour", "prefetch"), CASES)
def test_vllm_server_fault_ends_in_one_line_or_is_survived(
    behaviour: Behaviour, prefetch: bool
) -> None:
    outcome = met(behaviour, prefetch)
    require_clear(outcome)
    assert outcome.kind == ("refused" if behaviour.says else "survived"), outcome
    assert behaviour.says in outcome.line


def test_vllm_server_faults_are_many_and_have_names() -> None:
    assert len(BEHAVIOURS) >= 65
    assert len({behaviour.name for behaviour in BEHAVIOURS}) == len(BEHAVIOURS)


def test_vllm_server_retry_backs_off_and_warns() -> None:
    behaviour = next(one for one in BEHAVIOURS if one.name == "500 always")
    outcome = met(behaviour, batch=1)
    assert len(outcome.waits) == TRIES - 1
    assert list(outcome.waits) == sorted(outcome.waits) and outcome.waits[0] < 1
    assert sum(outcome.waits) < 60
    assert outcome.requests == 5 + TRIES  # health, metrics, server_info, version, models
    (told,) = outcome.told
    assert "is in trouble (HTTP 500: boom); asking again" in told


@pytest.mark.long
def test_many_random_vllm_server_faults() -> None:
    outcomes = []
    for seed in range(400):
        behaviour, outcome = at_random(seed)
        assert outcome.kind in ("survived", "refused"), (seed, behaviour.name, outcome)
        require_clear(outcome)
        outcomes.append(outcome)
    print(table(outcomes))
