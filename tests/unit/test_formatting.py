"""Numbers in words."""

from __future__ import annotations

from opsd_cli.cli.listeners import preflight_line
from opsd_cli.formatting import numbered
from opsd_cli.planning.before_step_1 import RolloutsBeforeStep1
from opsd_cli.reports.run_report import verdict
from opsd_cli.statistics import Estimate


def test_counts_of_one_thing_are_singular() -> None:
    assert [numbered(n, "step") for n in (0, 1, 1200)] == ["0 steps", "1 step", "1,200 steps"]
    half = Estimate(0.5, 0.4, 0.6)
    assert preflight_line(half, half, 1).startswith("preflight on 1 problem:")
    assert RolloutsBeforeStep1(0, 1, 0).claim == "1 rollout precedes step 1"
    done = [{"step": 1, "steps": 1}]
    assert verdict(None, done) == "Training of the model has not finished: 1 of 1 step is done."
