"""The pace of a run: tokens a second, and the time left by token, on a clock that the test sets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import GRADIENT, ROLLOUTS, Decoded, StepRow, WorkAhead
from opsd_cli.tracking.pace import Left, Pace
from opsd_cli.tracking.published import Published, publish, published_of, read_published
from tests.support.fake_clock import Seconds


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def pace(clock: Seconds) -> Pace:
    return Pace(clock)


def row(step: int, seconds: float) -> StepRow:
    return StepRow(
        step=step, steps=5, loss=1.0, grad_norm=1.0, learning_rate=0.1, reward=None, metrics={},
        ledger=TokenLedger(), seconds=seconds, cpu_seconds=1.0, tokens_per_second=None,
        memory_peak=0,
    )  # fmt: skip


def decode(
    pace: Pace, clock: Seconds, seconds: int, rate: int, most: int, completions: int = 16
) -> None:
    """Decode at a constant rate, no completion ending."""
    before = 0 if pace.decoded is None else pace.decoded.tokens
    for second in range(1, seconds + 1):
        clock.now += 1
        pace.decoding(Decoded(before + rate * second, most, completions, 0, 0))


def test_pace_speed_is_that_of_the_last_seconds_and_excludes_reading_the_prompt(
    pace: Pace, clock: Seconds
) -> None:
    pace.phase("validation", 16)
    pace.decoding(Decoded(0, 1600, 16, 0, 0))
    assert pace.tokens_per_second is None
    clock.now = 20.0  # the prompts are read
    decode(pace, clock, 5, 10, 1600)
    assert pace.tokens_per_second == 10
    decode(pace, clock, 30, 30, 1600)
    assert pace.tokens_per_second == 30
    clock.now += 11  # nothing comes any more: the speed falls at once
    assert pace.tokens_per_second is not None and pace.tokens_per_second < 16


def test_pace_estimates_nothing_from_too_little_and_a_bound_before_a_completion_stops(
    pace: Pace, clock: Seconds
) -> None:
    pace.phase("validation", 16)
    pace.decoding(Decoded(0, 1600, 16, 0, 0))
    decode(pace, clock, 30, 10, 1600)
    assert pace.phase_left is None  # 300 of 1,600 tokens, and no completion has ended
    decode(pace, clock, 20, 10, 1600)
    assert pace.phase_left == Left(pytest.approx(110), at_most=True)


def test_pace_estimates_by_the_chance_that_a_completion_ends(pace: Pace, clock: Seconds) -> None:
    pace.phase("validation", 100)
    pace.decoding(Decoded(0, 100 * 1000, 100, 0, 0))
    decode(pace, clock, 5, 100, 100 * 1000, 100)
    clock.now += 5
    pace.decoding(Decoded(1000, 91_000, 100, 10, 10))  # a stop token every 100 tokens
    left = pace.phase_left
    assert left is not None and not left.at_most
    rate = pace.tokens_per_second
    assert rate is not None
    expected = 90 * (1 - math.exp(-0.01 * 90_000 / 90)) / 0.01
    assert left.seconds == pytest.approx(expected / rate)
    assert left.seconds < 0.11 * 90_000 / rate  # far below what the limits would allow


def test_pace_of_a_run_counts_the_steps_and_evaluations_to_come(pace: Pace, clock: Seconds) -> None:
    pace.phase("validation", 10)
    pace.decoding(Decoded(0, 1000, 10, 0, 0))
    for second in range(1, 11):  # 10 seconds, 500 tokens, a stop token every 50
        clock.now += 1
        pace.decoding(Decoded(50 * second, 1000 - 50 * second, 10, second, second))
    assert pace.left is not None and pace.left.seconds == 0  # nothing was announced
    for step in (1, 2):
        pace.ahead(WorkAhead(5 - step, 6 - step, 30, 100))
        pace.phase(ROLLOUTS, 4)
        pace.decoding(Decoded(0, 400, 4, 0, 0))
        decode(pace, clock, 4, 100, 400, 4)
        if step == 1:
            assert pace.left is None  # no step has shown what its gradient takes
        pace.decoding(Decoded(400, 400, 4, 4, 0))
        pace.ahead(WorkAhead(5 - step, 5 - step, 30, 100))
        pace.phase(GRADIENT, 1)
        clock.now += 3
        pace.learning(500, 1000)
        assert pace.phase_left == Left(pytest.approx(3))
        if step == 2:
            steps = 3 * (4 + 6)
            evaluations = 30 * 50 * (1 - math.exp(-100 / 50)) / 50
            assert pace.left == Left(pytest.approx(3 + steps + evaluations))
        clock.now += 3
        pace.learning(1000, 1000)
        pace.step(row(step, clock.now))
    assert pace.elapsed == clock.now
    pace.step(row(3, clock.now + 1000))  # the seconds of former processes count
    assert pace.elapsed == clock.now + 1000


def read(pace: Pace, clock: Seconds, seconds: int, rate: int, total: int, tokens: int = 0) -> None:
    """Read prompts at a constant rate."""
    for second in range(seconds + 1):
        pace.decoding(Decoded(tokens, 1600, 16, 0, 0, rate * second, total, True))
        clock.now += second < seconds


def test_pace_of_reading_prompts_is_apart_from_that_of_decoding(pace: Pace, clock: Seconds) -> None:
    pace.phase("validation", 16)
    pace.decoding(Decoded(0, 1600, 16, 0, 0))
    assert pace.reading is None and pace.reading_left is None
    read(pace, clock, 60, 10, 900)
    assert pace.reading == (600, 900)
    assert pace.reading_left == Left(pytest.approx(30))
    clock.now += 10  # nothing is reported, and the time left goes on falling
    assert pace.reading_left == Left(pytest.approx(20))
    clock.now += 25
    assert pace.reading_left is None  # it took longer: nothing is known
    pace.decoding(Decoded(0, 1600, 16, 0, 0, 900, 900))
    assert pace.reading is None
    for second in range(1, 51):
        clock.now += 1
        pace.decoding(Decoded(10 * second, 1600, 16, 0, 0, 900, 900))
    assert pace.phase_left == Left(pytest.approx(110), at_most=True)  # no second of reading counts


def test_pace_adds_the_prompts_still_to_be_read_and_falls_while_they_are(
    pace: Pace, clock: Seconds
) -> None:
    pace.phase("validation", 16)
    read(pace, clock, 60, 10, 1200)
    pace.decoding(Decoded(0, 1600, 16, 0, 0, 600, 1200))
    decoded = 0
    for second in range(1, 51):
        clock.now += 1
        decoded = 10 * second
        pace.decoding(Decoded(decoded, 1600, 16, 0, 0, 600, 1200))
    assert pace.phase_left == Left(pytest.approx(110 + 60), at_most=True)
    pace.decoding(Decoded(decoded, 1600, 16, 0, 0, 600, 1200, True))
    assert pace.reading is None  # it may be over at once
    seen = []
    for _ in range(3):
        clock.now += 1
        left = pace.phase_left
        assert left is not None
        seen.append(left.seconds)
    assert seen == pytest.approx([169, 168, 167])
    assert pace.reading == (600, 1200)


def test_pace_published_to_a_file_is_read_by_another_process(
    pace: Pace, clock: Seconds, tmp_path: Path
) -> None:
    path = tmp_path / "run.progress.json"
    assert read_published(path) is None
    pace.phase("validation", 16)
    pace.decoding(Decoded(0, 160, 16, 0, 0))
    decode(pace, clock, 5, 10, 160)
    publish(path, pace)
    assert (
        read_published(path)
        == published_of(pace)
        == Published("validation", 0, 16, 50, 160, 10.0, 5.0, pytest.approx(11), True)
    )
    pace.phase("validation", 16)
    pace.decoding(Decoded(0, 160, 16, 0, 0, 7, 90, True))
    found = published_of(pace)
    assert (found.reading, found.tokens, found.most) == (True, 7, 90)
    path.write_text('{"phase": "validation"}')
    assert read_published(path) is None
    publish(tmp_path / "no" / "folder", pace)  # ignored: the run does not need it
