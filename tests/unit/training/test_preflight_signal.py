"""The teacher's scores of the student's attempts: the preflight's second look before it fails."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import Interrupted, PreflightFailed
from opsd_cli.evaluation.samples import Sample
from opsd_cli.planning.token_plan import token_plan
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.training import run_directory
from opsd_cli.training.preflight_signal import (
    described,
    graded_differently,
    helps,
    preference,
    signal_of,
    undecided,
)
from opsd_cli.training.preflight_verdict import verdict_of
from tests.support.fakes import ScoringPolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import StopWithin, begin, resume, run_config, run_contents

SURE: dict[str, Any] = {
    "preference": {"value": 0.9, "low": 0.7, "high": 0.97},
    "questions": 9,
    "attempts": 36,
    "gap": {"right": 1.0, "wrong": -1.0, "total": 4.0},
}


class Discerning(ScoringPolicy):
    """Answers wrongly as the teacher; scores right attempts `favour` nats a token higher."""

    def __init__(self, favour: float, skill: float = 0.5) -> None:
        super().__init__(skill=skill, taught=0.0)
        self.favour = favour

    def log_probs(self, prompt: str, completion: tuple[int, ...], role: str) -> np.ndarray:
        found = re.search(r"(\d+) \+ (\d+)", prompt)
        assert found is not None
        answer = int(found[1]) + int(found[2])
        right = f"{{{answer}}}" in self.tokenizer.decode(completion)
        return np.full(len(completion), -1.0 + self.favour * right * (role == "teacher"))


def sample(problem: str, index: int, reward: float, completion: str = "x") -> Sample:
    return Sample(problem, index, completion, 1, "stop", None, "wrong", reward == 1, score=reward)


def test_preference_counts_pairs_of_unequal_reward_and_halves_ties() -> None:
    assert preference([(1, 2.0), (0, -1.0), (0, 3.0)]) == 0.5
    assert preference([(1, 2.0), (1, -9.0), (0, -9.0)]) == 0.75
    assert preference([(0.7, 1.0), (0.2, 0.0), (0.2, 5.0)]) == 0.5


def test_questions_of_equal_grades_and_empty_attempts_are_left_out() -> None:
    samples = [sample("a", 0, 1), sample("a", 1, 0), sample("b", 0, 1), sample("b", 1, 1)]
    samples += [sample("c", 0, 1), sample("c", 1, 0, completion="")]
    assert list(graded_differently(samples)) == ["a"]


def test_signal_that_is_clearly_above_chance_on_enough_questions_helps() -> None:
    assert helps(SURE) and not helps(None)
    assert not helps(SURE | {"questions": 4}) and "fewer than 5" in described(
        SURE | {"questions": 4}
    )
    unsure = SURE | {"preference": {"value": 0.6, "low": 0.5, "high": 0.7}}
    assert not helps(unsure) and undecided(unsure) and not undecided(SURE)
    lost = SURE | {"gap": {"right": -19.8, "wrong": -20.2, "total": 16.0}}
    nearly = SURE | {"gap": {"right": 1.0, "wrong": -0.98, "total": 20.0}}
    assert not helps(nearly) and "9% of what it changes" in described(nearly)
    assert not helps(lost) and not undecided(lost)
    assert "differ by 2% of what it changes" in described(lost)
    none = {"preference": None, "questions": 0, "attempts": 0}
    assert not helps(none) and "no question had attempts of different grades" in described(none)


def test_signal_of_attempts_is_the_teachers_minus_the_students_score() -> None:
    config, policy = run_config(), Discerning(0.5)
    problems = SPLITS.train.problems[:2]
    builder = PromptBuilder(config, policy.tokenizer)
    right = f"{{{problems[0].answer}}}"
    samples = [
        sample(problems[0].id, 0, 1, right), sample(problems[0].id, 1, 0, "none"),
        sample("another", 0, 1), sample("another", 1, 0),
    ]  # fmt: skip
    found = signal_of(
        samples, problems, (builder.student, builder.teacher), policy, policy.tokenizer, config
    )
    assert (found.questions, found.attempts) == (1, 2)
    assert found.by_question == {problems[0].id: 1.0}
    assert found.gap == {"right": pytest.approx(0.5 * len(right)), "wrong": 0.0, "total": ANY}
    assert found.gap["total"] == pytest.approx(found.gap["right"] / 2)  # the mean of both attempts
    read = [len(builder.teacher(problems[0]).ids), len(builder.student(problems[0]).ids)]
    scored = len(right) + len("none")
    assert found.spent.teacher_scored == 2 * read[0] + scored
    assert found.spent.scored == 2 * read[1] + scored


def test_preflight_goes_on_where_the_teacher_tells_right_attempts_from_wrong(
    tmp_path: Path,
) -> None:
    begin(tmp_path / "run", policy=Discerning(0.5))
    record = json.loads((tmp_path / "run" / run_directory.PREFLIGHT).read_text())
    assert record["gain"]["value"] < 0 and record["signal"]["preference"]["value"] == 1
    assert record["signal"]["gap"]["right"] > record["signal"]["gap"]["wrong"] == 0
    verdict = verdict_of(record, run_config())
    assert verdict.cause == "signal" and verdict.goes_on
    assert "favours the right one 100% of the time" in verdict.meaning
    most = token_plan(run_config(), SPLITS).most
    assert record["spent"]["teacher_scored"] > 0 < record["spent"]["scored"]
    assert all(record["spent"][kind] <= getattr(most, kind) for kind in ("scored", "evaluation"))


@pytest.mark.parametrize(("favour", "said"), [(-0.5, "0% of the time"), (0.0, "50% of the time")])
def test_preflight_fails_where_the_teacher_favours_wrong_attempts_or_none(
    tmp_path: Path, favour: float, said: str
) -> None:
    with pytest.raises(PreflightFailed, match="it favours the right one") as caught:
        begin(tmp_path / "run", policy=Discerning(favour))
    assert said in caught.value.message


def test_preflight_without_attempts_of_both_grades_says_that_it_does_not_know(
    tmp_path: Path,
) -> None:
    with pytest.raises(PreflightFailed, match="no question had attempts of different grades"):
        begin(tmp_path / "run", policy=Discerning(0.5, skill=0.0))


def test_preflight_makes_no_attempts_where_the_teacher_answers_better(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    record = json.loads((tmp_path / "run" / run_directory.PREFLIGHT).read_text())
    assert "signal" not in record


def test_verdict_asks_for_more_problems_where_the_signal_may_help() -> None:
    outcomes = {"student": {"right": 0.5, "wrong": 0.5}, "teacher": {"right": 0.4, "wrong": 0.6}}
    unsure = SURE | {"preference": {"value": 0.7, "low": 0.4, "high": 0.9}}
    record = {"outcomes": outcomes, "problems": 32, "signal": unsure}
    verdict = verdict_of(record, run_config())
    assert not verdict.goes_on and "--set preflight.problems=128" in verdict.advice
    certain = verdict_of(record | {"signal": None}, run_config())
    assert "preflight.problems" not in certain.advice


@pytest.mark.parametrize("cause", ["truncated", "solved"])
def test_signal_does_not_change_a_verdict_that_is_not_about_answers(cause: str) -> None:
    shares: dict[str, Any] = {
        "truncated": ({"right": 0.5, "wrong": 0.5}, {"right": 0.0, "cut_off": 1.0}),
        "solved": ({"right": 1.0}, {"right": 0.0, "wrong": 1.0}),
    }
    student, teacher = shares[cause]
    record = {"outcomes": {"student": student, "teacher": teacher}, "problems": 32, "signal": SURE}
    verdict = verdict_of(record, resolve(None, ["sampling.max_new_tokens=8"]))
    assert (verdict.cause, verdict.goes_on) == (cause, False)


def test_scoring_attempts_can_be_stopped_and_the_run_resumes_to_the_same_files(
    tmp_path: Path,
) -> None:
    whole, run, policy = tmp_path / "whole", tmp_path / "run", Discerning(0.5)
    settings = ("preflight.problems=8", "train.steps=1")
    begin(whole, *settings, policy=Discerning(0.5))
    stop = StopWithin("preflight: scores", 1)
    with pytest.raises(Interrupted):
        begin(run, *settings, policy=policy, listener=stop, stop=stop)
    assert not (run / run_directory.PREFLIGHT).exists()
    drawn = len(policy.drawn)
    resume(run, policy=policy)
    assert run_contents(run) == run_contents(whole)
    assert not any(request in policy.drawn[drawn:] for request in policy.drawn[:drawn])
