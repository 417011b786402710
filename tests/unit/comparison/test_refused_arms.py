"""Arms whose preflight fails: a reference that does not help is an outcome, not the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from opsd_cli.comparison.choice_words import ended_names
from opsd_cli.comparison.jobs import Job, configs_of, plan_of, read_plan, write_plan
from opsd_cli.comparison.phases import facts_of, jobs_of, train_arms
from opsd_cli.comparison.supervisor import PreflightOfRunFailed
from opsd_cli.comparison.variants import arms_of
from opsd_cli.config.resolve import resolve
from opsd_cli.tracking.listener import Listener
from tests.support.halved_runs import HalvedRuns, begin_halved, train_halved

ANSWER, SIBLING = "opsd teacher.reference=answer", "opsd teacher.reference=sibling"


class Warnings(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

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


class Refusing(HalvedRuns):
    """Runs of a comparison with rounds, some of which fail in their preflight."""

    refused: tuple[str, ...] = ()

    def __call__(self, directory: Path, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.name in self.refused:
                raise PreflightOfRunFailed(job.name, "nothing to distil", "another reference")
        super().__call__(directory, jobs)


def refusing(*names: str) -> Refusing:
    runs = Refusing()
    runs.refused = names
    return runs


@pytest.mark.parametrize(
    ("name", "label", "compared"),
    [
        # Of the four that are left after round 1 half go on.
        ("opsd+train.passes=2-s0", "opsd train.passes=2", ("divergence.kind=reverse_kl",)),
        # With another seed: the round stays as it was decided.
        ("opsd+train.passes=2-s1", "opsd train.passes=2", ("divergence.kind=reverse_kl",)),
    ],
)
def test_halving_leaves_out_an_arm_with_a_failed_preflight_and_goes_on(
    tmp_path: Path, name: str, label: str, compared: tuple[str, ...]
) -> None:
    begin_halved(tmp_path)
    warnings = Warnings()
    jobs = train_halved(tmp_path, refusing(name), warnings)
    assert {job.method for job in jobs} == {"opsd", *(f"opsd {each}" for each in compared)}
    assert warnings.said == [f"{label} is left out: nothing to distil"]
    halving = facts_of(tmp_path, {})["halving"]
    assert label not in halving["went_on"] and label not in halving["ended"]
    again, told = HalvedRuns(), Warnings()
    assert [job.name for job in train_halved(tmp_path, again, told)] == [job.name for job in jobs]
    assert not again.ran and told.said == warnings.said  # nothing is left to train
    assert not any(job.method == label for job in jobs_of(tmp_path))


def test_halving_ends_with_the_error_of_its_base(tmp_path: Path) -> None:
    begin_halved(tmp_path)
    with pytest.raises(PreflightOfRunFailed, match="failed: nothing to distil"):
        train_halved(tmp_path, refusing("opsd-s0"))


def test_halving_says_why_it_ended_no_arm(tmp_path: Path) -> None:
    class Equal(HalvedRuns):
        def _run(self, path: Path, job: Job, gain: float) -> None:
            super()._run(path, job, 0.0)

    begin_halved(tmp_path)
    listener = Warnings()
    train_halved(tmp_path, Equal(), listener)
    (told,) = (note for note in listener.notes if note.startswith("round 1 ended no arm: "))
    assert "have the same accuracy on validation (" in told and "none of equals is ended" in told
    halving = facts_of(tmp_path, {})["halving"]
    assert halving["ended"] == {} and list(halving["none_ended"]) == ["1"]
    assert ended_names(halving).startswith(" --halving ended no arm in its one round: opsd ")
