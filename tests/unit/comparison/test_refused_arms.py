"""Arms whose preflight fails: a reference that does not help is an outcome, not the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from opsd_cli.comparison.jobs import Job, configs_of, plan_of, read_plan, write_plan
from opsd_cli.comparison.phases import train_arms
from opsd_cli.comparison.supervisor import PreflightOfRunFailed
from opsd_cli.comparison.variants import arms_of
from opsd_cli.config.resolve import resolve
from opsd_cli.tracking.listener import Listener

ANSWER, SIBLING = "opsd teacher.reference=answer", "opsd teacher.reference=sibling"


class Warnings(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def trained(
    directory: Path, refused: Sequence[str], listener: Listener
) -> tuple[list[list[str]], list[str], dict[str, str]]:
    """The runs of each call, those that are compared in the end, and the arms left out."""
    texts = ["teacher.reference=answer,sibling"]
    configs, variation = arms_of("opsd", texts, False, lambda sets: resolve(None, list(sets)))
    write_plan(directory, plan_of(configs, [0, 1], False, None, variation))
    calls: list[list[str]] = []

    def run_jobs(_: Path, jobs: Sequence[Job]) -> None:
        calls.append([job.name for job in jobs])
        for job in jobs:
            if job.method in refused:
                raise PreflightOfRunFailed(job.name, "nothing to distil", "another reference")

    plan = read_plan(directory)
    jobs, left_out = train_arms(directory, plan, configs_of(plan), run_jobs, listener)
    return calls, [job.method for job in jobs], left_out


def test_arm_with_a_failed_preflight_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    warnings = Warnings()
    calls, compared, left_out = trained(tmp_path / "c", [ANSWER], warnings)
    assert [len(names) for names in calls] == [6, 4]
    assert set(compared) == {"opsd", SIBLING}
    assert left_out == {ANSWER: "nothing to distil"}
    assert warnings.said == [f"{ANSWER} is left out: nothing to distil"]


@pytest.mark.parametrize("refused", [["opsd"], [ANSWER, SIBLING]])
def test_failed_preflight_of_the_base_or_of_every_arm_ends_the_comparison(
    tmp_path: Path, refused: list[str]
) -> None:
    with pytest.raises(PreflightOfRunFailed, match="failed: nothing to distil"):
        trained(tmp_path / "c", refused, Listener())
