"""The estimate of a run's time: how a short step is scaled to the run's shapes."""

from __future__ import annotations

import pytest

from opsd_cli.cli.console import Output
from opsd_cli.cli.plan import _show_time
from opsd_cli.planning.before_step_1 import RolloutsBeforeStep1
from opsd_cli.training.time_probe import (
    FEW,
    LONG,
    ROWS,
    SHORT,
    Decoding,
    TimeEstimate,
    affordable_questions,
    affordable_tokens,
)


def test_time_estimate_adds_up() -> None:
    estimate = TimeEstimate(
        rollouts=2.0, gradient=3.0, evaluation_rollout=0.5, steps=10, before=20, evaluations=60,
        rows=8, tokens=32,
    )  # fmt: skip
    assert (estimate.step, estimate.before_step_1, estimate.all_evaluations) == (5.0, 10.0, 30.0)
    assert estimate.run == 10 * 5.0 + 30.0
    assert estimate.as_dict()["run"] == estimate.run


def test_time_of_decoding_in_proportion_to_the_rows() -> None:
    decoding = Decoding(prompts=1.0, token=0.1, few=FEW / ROWS)
    one = decoding.seconds(ROWS, 100, ROWS)
    assert one == pytest.approx(1.0 + 0.1 * 100)
    for completions, batch in ((4 * ROWS, ROWS), (4 * ROWS, 4 * ROWS), (4 * ROWS, 16 * ROWS)):
        assert decoding.seconds(completions, 100, batch) == pytest.approx(4 * one)


def test_time_of_decoding_that_does_not_grow_with_the_rows() -> None:
    decoding = Decoding(prompts=1.0, token=0.1, few=1.0)
    one = decoding.seconds(ROWS, 100, ROWS)
    assert decoding.seconds(64 * ROWS, 100, 64 * ROWS) == pytest.approx(one)
    assert decoding.seconds(64 * ROWS, 100, ROWS) == pytest.approx(64 * one)
    assert decoding.seconds(0, 100, ROWS) == 0.0


def test_time_of_decoding_grows_with_the_tokens() -> None:
    decoding = Decoding(prompts=1.0, token=0.1, few=0.5)
    short, long = (decoding.seconds(ROWS, tokens, ROWS) for tokens in (100, 200))
    assert long - short == pytest.approx(0.1 * 100)


def test_time_probe_measures_less_on_a_slow_machine() -> None:
    assert affordable_tokens(0.0) == affordable_tokens(0.1) == LONG
    assert affordable_tokens(1000.0) == 2 * SHORT
    assert 2 * SHORT < affordable_tokens(4.0) < LONG
    assert [affordable_questions(one, 8) for one in (0.0, 5.0, 1000.0)] == [8, 4, 1]


@pytest.mark.parametrize(("share", "told"), [(0.17, True), (0.98, False), (None, False)])
def test_time_estimate_is_an_upper_bound_and_names_a_busy_machine(
    share: float | None, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    estimate = TimeEstimate(
        rollouts=2.0, gradient=3.0, evaluation_rollout=0.5, steps=10, before=20, evaluations=60,
        rows=8, tokens=32, cpu_share=share,
    )  # fmt: skip
    _show_time(estimate, RolloutsBeforeStep1(20, 0, 0, 0, 80), Output())
    out = capsys.readouterr().out
    assert "time, at most" in out and "every completion were as long as allowed" in out
    assert ("the machine was busy" in out and "17% of a CPU core" in out) == told
