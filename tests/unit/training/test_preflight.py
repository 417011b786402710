"""What a failed preflight says of the completions, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import Rollout
from opsd_cli.errors import Interrupted, PreflightFailed
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from tests.support.fakes import FakePolicy
from tests.support.training_runs import StopWithin, begin, resume, run_contents


class Unanswering(FakePolicy):
    """Ends every completion without an answer."""

    def generate(self, requests: Any, *rest: Any, **more: Any) -> Iterator[Rollout]:
        ids = tuple(self.tokenizer.encode("I cannot\nsay.<|im_end|>"))
        for request in requests:
            yield Rollout(request, ids, np.zeros(len(ids), np.float32), "stop")


class Warnings(Listener):
    """Collects the warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def failed(
    directory: Path, *settings: str, policy: FakePolicy | None = None
) -> tuple[PreflightFailed, str]:
    """A run whose preflight fails: its error, and the sample that was shown."""
    listener = Warnings()
    with pytest.raises(PreflightFailed) as caught:
        begin(
            directory, *settings, policy=policy or FakePolicy(skill=0.5, taught=0.0),
            listener=listener,
        )  # fmt: skip
    return caught.value, listener.said[-1]


def test_preflight_failure_by_truncated_completions(tmp_path: Path) -> None:
    error, sample = failed(tmp_path / "run", "sampling.max_new_tokens=4")
    assert "nothing to distil. Of the completions with the reference 0% gave" in error.message
    assert "100% were cut off at 4 tokens" in error.message
    assert "without it 0% gave a wrong answer, 100% were cut off" in error.message
    assert "; raise sampling.max_new_tokens (now 4) to " in error.hint
    assert "opsd train --preflight-only (with the same settings) measures again" in error.hint
    assert "cut off at 4 tokens; the right answer is" in sample
    assert "question:   0 + 1\n" in sample and "completion: \\box" in sample


def test_preflight_failure_names_the_length_of_evaluations_where_that_is_set(
    tmp_path: Path,
) -> None:
    error, _ = failed(tmp_path / "run", "evaluation.max_new_tokens=3")
    assert "raise evaluation.max_new_tokens (now 3) to" in error.hint


def test_preflight_failure_by_completions_without_an_answer(tmp_path: Path) -> None:
    error, sample = failed(tmp_path / "run", "sampling.max_new_tokens=512", policy=Unanswering())
    wanted = "0% were cut off at 512 tokens before an answer and 100% ended without one"
    assert wanted in error.message
    assert "prompts.student.template" in error.hint and "\\boxed{} already" in error.hint
    assert "(no answer found in it; the right answer is 1)" in sample
    assert "completion: I cannot say." in sample


def test_preflight_failure_by_wrong_answers_says_that_the_problems_are_too_hard(
    tmp_path: Path,
) -> None:
    error, sample = failed(tmp_path / "run", policy=FakePolicy(skill=0.0, taught=0.0))
    assert "0% were cut off" in error.message and "0% ended without" in error.message
    assert "too hard for this model; show worked examples" in error.hint
    assert "lower evaluation.temperature (now 1)" in error.hint
    assert "max_new_tokens" not in error.hint
    assert "(answered 2; the right answer is 1)" in sample


def test_preflight_failure_by_a_reference_that_misleads(tmp_path: Path) -> None:
    error, _ = failed(tmp_path / "run")
    assert error.hint.startswith("the reference makes the model worse")
    assert "opsd data check" in error.hint


def test_preflight_failure_of_solved_problems_asks_for_harder_ones(tmp_path: Path) -> None:
    error, _ = failed(tmp_path / "run", policy=FakePolicy(skill=1.0, taught=0.0))
    assert "; train on harder problems. " in error.hint


def test_preflight_failure_suggests_no_lower_temperature_where_it_is_low(tmp_path: Path) -> None:
    none = FakePolicy(skill=0.0, taught=0.0)
    error, _ = failed(tmp_path / "run", "evaluation.temperature=0", policy=none)
    assert "examples=2), or take a larger model" in error.hint


@pytest.mark.parametrize("settings", [[], ["sampling.max_new_tokens=4"]])
def test_preflight_failure_says_how_to_look_and_how_to_train_regardless(
    tmp_path: Path, settings: list[str]
) -> None:
    error, _ = failed(tmp_path / "run", *settings)
    for said in (
        "sample --privileged",
        "--show-prompts in place of --privileged",
        "--set preflight.enabled=false; the student then learns from a teacher that was not",
    ):
        assert said in error.hint


def test_preflight_failure_keeps_record_and_samples_beside_the_deleted_run(
    tmp_path: Path,
) -> None:
    for name in ("run-failed-preflight", "run-failed-preflight-2"):  # the second is as good
        error, _ = failed(tmp_path / "run")
        kept = tmp_path / name
        assert f"every completion is in {kept}/preflight-samples.jsonl" in error.message
        assert not (tmp_path / "run").exists()
        record = json.loads((kept / run_directory.PREFLIGHT).read_text())
        assert record["teacher"]["value"] == 0
        rows = list(read_rows(kept / run_directory.PREFLIGHT_SAMPLES))
        roles = ["student"] * 32 + ["teacher"] * 32 + ["scored"] * 32 * 8
        assert [row["role"] for row in rows] == roles
        assert rows[0] | {"role": "student", "question": "0 + 1", "gold": "1"} == rows[0]
        assert {"completion", "status", "answer", "finish_reason", "tokens"} <= rows[0].keys()


def test_preflight_failure_where_nothing_can_be_kept_says_the_same_but_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "keep_failed_preflight", lambda _: None)
    with pytest.raises(PreflightFailed, match=r"training follows it\)$"):
        begin(tmp_path / "run", policy=FakePolicy(skill=0.5, taught=0.0))


@pytest.mark.parametrize("damaged", [False, True])
def test_preflight_failure_of_a_resumed_run_stays_in_its_directory(
    tmp_path: Path, damaged: bool
) -> None:
    run, policy = tmp_path / "run", FakePolicy(skill=0.5, taught=0.0)
    stop = StopWithin("preflight: teacher", 3)
    with pytest.raises(Interrupted):
        begin(run, policy=policy, listener=stop, stop=stop)
    with pytest.raises(PreflightFailed) as first:
        resume(run, policy=policy)
    assert f"every completion is in {run}/preflight-samples.jsonl" in first.value.message
    if damaged:
        (run / run_directory.PREFLIGHT_SAMPLES).write_bytes(b'{"role": "teacher"}\n\xff\n')
    drawn = len(policy.drawn)
    with pytest.raises(PreflightFailed) as second:
        resume(run, policy=policy)
    assert len(policy.drawn) == drawn
    assert second.value.message.startswith(first.value.message.partition("; every")[0])
    assert ("every completion" in second.value.message) != damaged


def test_preflight_samples_of_a_run_that_was_stopped_are_those_of_one_that_was_not(
    tmp_path: Path, finished_run: Path
) -> None:
    stop = StopWithin("preflight: teacher", 3)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", listener=stop, stop=stop)
    resume(tmp_path / "run")
    name = run_directory.PREFLIGHT_SAMPLES
    assert run_contents(tmp_path / "run")[name] == run_contents(finished_run)[name]
