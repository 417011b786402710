"""What a run announces of the work to come, against what it then does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opsd_cli.problems import ProblemSet
from opsd_cli.tracking.listener import (
    DIVERGENCE,
    GRADIENT,
    LIKELIHOOD,
    ROLLOUTS,
    Listener,
    WorkAhead,
)
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.prefetching import run_config
from tests.support.small_problems import SPLITS, problem_set


class Phases(Listener):
    def __init__(self) -> None:
        self.phases: list[tuple[str, int, WorkAhead]] = []
        self._work = WorkAhead()

    def ahead(self, work: WorkAhead) -> None:
        self._work = work

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self.phases.append((name, total, self._work))


@pytest.mark.parametrize("curve", [False, True])
@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("watch", [None, problem_set("watch", range(90, 97))])
@pytest.mark.parametrize("at_end", [False, True])
def test_work_ahead_of_each_phase_is_what_the_run_then_does(
    tmp_path: Path, curve: bool, every: int, watch: ProblemSet | None, at_end: bool
) -> None:
    listener, splits = Phases(), replace(SPLITS, watch=watch)
    config = run_config(
        f"train.evaluate_every={every}", f"train.curve={curve}", "evaluation.samples=2",
        "preflight.problems=4", "evaluation.max_new_tokens=64", f"train.test_at_end={at_end}",
    )  # fmt: skip
    with Run.create(tmp_path / "run", config, {"packages": {}}) as held:
        result = train(FakePolicy(skill=0.3, gain=0.1), splits, held, listener)
    names = [name for name, _, _ in listener.phases]
    assert names[0] == "preflight: student" and names.count(ROLLOUTS) == 6
    # Whether the best step needs a test of its own is not known before the end.
    once_more = len(watch.problems) if watch else 0
    once_more += 0 if curve else len(SPLITS.test.problems)
    unknown = 0 if result.best_step not in (0, 6) else 2 * once_more
    for place, (name, _, work) in enumerate(listener.phases):
        later = listener.phases[place + 1 :]
        assert work.completion_tokens == 64
        assert work.rollouts == sum(n == ROLLOUTS for n, _, _ in later)
        assert work.gradients == sum(n == GRADIENT for n, _, _ in later)
        completions = sum(total for n, total, _ in later if n not in (ROLLOUTS, GRADIENT))
        final = name.endswith(("(final)", "(best)"))
        assert work.completions - completions == (0 if final else unknown), name


def test_work_ahead_of_reading_what_was_sampled_is_that_of_sampling_it(tmp_path: Path) -> None:
    listener = Phases()
    config = run_config("grading.grader=none", "preflight.problems=4", "train.steps=1")
    with Run.create(tmp_path / "run", config, {"packages": {}}) as held:
        train(FakePolicy(skill=0.3), SPLITS, held, listener)
    ahead = {name: work for name, _, work in listener.phases}
    ahead["preflight"] = ahead["preflight: teacher"] = ahead["preflight: student"]
    reading = [name for name in ahead if name.endswith((DIVERGENCE, LIKELIHOOD))]
    assert len(reading) >= 2 * 4  # of the preflight, the base's test, validation, the last test
    for name in reading:
        sampled = name.rpartition(": ")[0]
        asked = 4 if sampled == "preflight" else 0  # the teacher's, which does not come here
        assert ahead[name].completions == ahead[sampled].completions - asked, name
        assert ahead[name].rollouts == ahead[sampled].rollouts
