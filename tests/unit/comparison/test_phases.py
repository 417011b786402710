"""The rounds of `--halving` from plan to summary: what is trained, resumed, measured and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.comparison.choice_words import ended_text
from opsd_cli.comparison.curves import read_curve
from opsd_cli.comparison.jobs import progress_of
from opsd_cli.comparison.phases import facts_of, jobs_of
from opsd_cli.comparison.session import Comparison
from opsd_cli.comparison.stored import stored_comparison
from opsd_cli.comparison.summary import COMPARISON, summarise
from opsd_cli.errors import Interrupted
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import json_safe
from opsd_cli.reports.unfinished_comparison import write_unfinished_comparison
from opsd_cli.tracking.listener import Listener
from tests.support.fakes import FakePolicy
from tests.support.halved_runs import HalvedRuns, begin_halved, train_halved
from tests.support.small_problems import SPLITS

KEPT = ("opsd", "opsd+divergence.kind=reverse_kl", "opsd+train.passes=2")
ENDED = ("opsd divergence.kind=jsd", "opsd train.passes=3")


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def asked_for_test(policy: FakePolicy) -> bool:
    """Whether a test problem was ever put before the policy."""
    drawn = {policy.tokenizer.decode(request.prompt_ids) for request in policy.drawn}
    return any(p.question in text for p in SPLITS.test.problems for text in drawn)


def splits_measured(run: Path) -> set[str]:
    return {row["split"] for row in read_rows(run / "evaluations.jsonl")}


def summary_of(directory: Path, runs: HalvedRuns) -> Comparison:
    variation = begin_halved(directory)
    jobs = train_halved(directory, runs)
    groups: dict[str, list[Any]] = {}
    for job in jobs:
        groups.setdefault(job.method, []).append(read_curve(directory / job.name, job.method))
    summary = summarise(groups, directory, variation=variation, replicates=20)
    summary |= facts_of(directory, groups)
    (directory / COMPARISON).write_text(json.dumps(json_safe(summary)))
    return Comparison(summary, groups, directory)


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, HalvedRuns]:
    runs = HalvedRuns()
    return summary_of(tmp_path_factory.mktemp("halved"), runs), runs


def test_halving_ends_the_worse_arms_on_one_seed_and_trains_the_rest_on_all(
    halved: tuple[Comparison, HalvedRuns],
) -> None:
    comparison, runs = halved
    first = runs.ran[:5]
    assert len({name for name, _ in first}) == 5
    assert all(name.endswith("-s0") and pause == 2 for name, pause in first)
    assert runs.ran[5:] == [(f"{name}-s{seed}", None) for seed in (0, 1) for name in KEPT]
    found = comparison.summary["halving"]
    assert tuple(found["ended"]) == ENDED and found["rounds"] == 1
    assert set(comparison.summary["methods"]) == set(found["went_on"])
    assert {(how["step"], how["steps"]) for how in found["ended"].values()} == {(2, 4)}


def test_halving_samples_no_test_problem_before_the_last_round(
    tmp_path: Path, halved: tuple[Comparison, HalvedRuns]
) -> None:
    begin_halved(tmp_path)
    runs = HalvedRuns(stop_after=5)
    with pytest.raises(Interrupted):
        train_halved(tmp_path, runs)
    every = [policy for each in runs.policies.values() for policy in each]
    assert len(every) == 5 and all(policy.drawn for policy in every)
    assert not any(asked_for_test(policy) for policy in every)
    for name in runs.policies:
        assert splits_measured(tmp_path / name) == {"validation"}
    # Of an arm that was ended the test split is never sampled; of the others at the end.
    comparison, whole = halved
    assert not asked_for_test(whole.policies["opsd+train.passes=3-s0"][-1])
    assert asked_for_test(whole.policies["opsd+train.passes=2-s0"][-1])
    assert splits_measured(comparison.directory / "opsd+train.passes=3-s0") == {"validation"}


def test_halving_trains_nothing_twice(
    tmp_path: Path, halved: tuple[Comparison, HalvedRuns]
) -> None:
    """The runs that go on are those of a comparison without rounds, with the same tokens."""
    comparison, _ = halved
    begin_halved(tmp_path, halved=False)
    runs = HalvedRuns(stop_after=5)
    with pytest.raises(Interrupted):
        train_halved(tmp_path, runs)
    for name in KEPT:
        usual = read_curve(tmp_path / f"{name}-s0")
        mine = read_curve(comparison.directory / f"{name}-s0")
        assert mine.correct_EP.tolist() == usual.correct_EP.tolist()
        assert mine.steps == usual.steps
        assert mine.cost_E["all"].tolist() == usual.cost_E["all"].tolist()
        assert mine.result["tokens"] == usual.result["tokens"]


@pytest.mark.parametrize("stop_after", [2, 7])
def test_halving_that_is_interrupted_goes_on_with_the_same_arms(
    tmp_path: Path, stop_after: int, halved: tuple[Comparison, HalvedRuns]
) -> None:
    begin_halved(tmp_path)
    runs = HalvedRuns(stop_after=stop_after)
    with pytest.raises(Interrupted):
        train_halved(tmp_path, runs)
    progress = [progress_of(tmp_path, job, running=False) for job in jobs_of(tmp_path)]
    page = write_unfinished_comparison(progress, tmp_path).read_text()
    assert "at the end of its round" in page
    runs.stop_after = 10**9
    train_halved(tmp_path, runs)
    assert runs.ran == halved[1].ran  # nothing was started again
    facts = facts_of(tmp_path, {})["halving"]
    assert json_safe(facts) == json_safe(halved[0].summary["halving"])


def test_halving_says_what_ended_arms_rest_on(tmp_path: Path) -> None:
    begin_halved(tmp_path)
    listener = Notes()
    with pytest.raises(Interrupted):
        train_halved(tmp_path, HalvedRuns(stop_after=5), listener)
    assert listener.notes[0] == "round 1 of 1: 5 arms, seed 0"
    assert [note.partition(":")[0] for note in listener.notes[1:3]] == list(ENDED)
    assert "ended at step 2 of 4 after validation" in listener.notes[1]
    assert listener.notes[3].startswith("on to all steps and seeds: opsd, ")


def test_ended_arm_is_not_called_worse_where_the_interval_holds_0() -> None:
    how = {
        "step": 4, "steps": 8, "seed": 0, "validation": 0.41, "than": "b", "than_validation": 0.47,
        "difference": {"value": -0.06, "low": -0.13, "high": 0.01}, "worse": False,
    }  # fmt: skip
    assert ended_text(how) == (
        "ended at step 4 of 8 after validation 41.0% vs 47.0% of b, the last that went on "
        "(-6.0 points (-13.0 to +1.0), seed 0): not shown to be worse there"
    )
    assert ended_text(how | {"worse": True}).endswith(": worse there")


def test_halving_has_planned_and_spent_tokens(halved: tuple[Comparison, HalvedRuns]) -> None:
    summary = halved[0].summary
    for label, kinds in summary["planned"].items():
        for kind in ("generated", "evaluation"):
            found = kinds[kind]
            assert 0 < found["spent"] <= found["at_most"] and found["estimated"] > 0, (label, kind)
        assert kinds["generated"]["spent"] == summary["methods"][label]["tokens"]["generated"]
    rounds = summary["halving"]
    assert rounds["spent"]["generated"] <= rounds["planned"]["generated"]
    assert rounds["spent"]["evaluation"] <= rounds["planned"]["evaluation"]
    assert rounds["planned"]["full_generated"] > rounds["planned"]["generated"]


def test_stored_halving_is_the_same_again(halved: tuple[Comparison, HalvedRuns]) -> None:
    again = stored_comparison(halved[0].directory)
    assert again is not None
    for key in ("halving", "planned"):
        assert json_safe(again.summary[key]) == json_safe(halved[0].summary[key])
