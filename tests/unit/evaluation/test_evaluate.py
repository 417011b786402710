"""Evaluation: the same samples whatever the order, nothing lost, nothing drawn twice."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Sampling
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import RunError
from opsd_cli.evaluation.directory import SAMPLES, EvaluationDirectory
from opsd_cli.evaluation.evaluate import evaluate
from opsd_cli.evaluation.samples import Evaluation, Sample, assemble
from opsd_cli.files.jsonl_log import Log
from opsd_cli.grading.mathematics import MathGrader
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from tests.support.fakes import FakePolicy

PROBLEMS = tuple(
    Problem(f"p{n}", f"{n} + 2", f"{n} + 2 = {n + 2}", str(n + 2), "made") for n in range(12)
)


def measured(
    policy: FakePolicy | None = None,
    problems: tuple[Problem, ...] = PROBLEMS,
    samples: int = 4,
    seed: int = 0,
    limit: int = 80,
    privileged: bool = False,
    **more: object,
) -> Evaluation:
    policy = policy or FakePolicy()
    builder = PromptBuilder(resolve(), policy.tokenizer)
    prompt_of = builder.teacher if privileged else builder.student
    with MathGrader() as grader:
        return evaluate(
            policy, "made", problems, prompt_of, Sampling(max_new_tokens=limit),
            samples=samples, seed=seed, grader=grader, **more,
        )  # type: ignore[arg-type]  # fmt: skip


def test_samples_are_complete_in_order_and_graded() -> None:
    result = measured()
    keys = [(s.problem_id, s.sample_index) for s in result.samples]
    assert keys == [(p.id, index) for p in PROBLEMS for index in range(4)]
    for sample in result.samples:
        right = sample.completion == f"\\boxed{{{int(sample.problem_id[1:]) + 2}}}"
        assert sample.correct == right == (sample.status == "correct")
    assert result.accuracy.value == sum(s.correct for s in result.samples) / 48
    assert 0 < result.accuracy.value < 1
    assert result.accuracy.low < result.accuracy.value < result.accuracy.high


def test_seeds_make_samples_independent_of_the_batch() -> None:
    whole = {(s.problem_id, s.sample_index): s for s in measured().samples}
    part = measured(problems=PROBLEMS[::-1][:5], samples=2)
    assert all(whole[s.problem_id, s.sample_index] == s for s in part.samples)


def test_seeds_that_differ_draw_other_samples() -> None:
    assert measured(seed=0).samples != measured(seed=1).samples


def test_resume_draws_missing_samples_alone() -> None:
    first = measured(samples=2)
    policy = FakePolicy()
    graded: list[Sample] = []
    more = measured(policy, samples=4, done=first.samples, on_sample=graded.append)
    assert {r.sample_index for r in policy.drawn} == {2, 3}
    assert len(graded) == 24
    assert more.samples == measured(samples=4).samples


def test_truncated_completions_have_no_answer_and_are_wrong() -> None:
    result = measured(limit=8)
    assert result.truncated == result.no_answer == 1.0
    assert result.accuracy.value == 0.0


def test_privileged_prompts_hold_the_reference() -> None:
    assert measured(FakePolicy(skill=0.0)).accuracy.value == 0.0
    assert measured(FakePolicy(skill=0.0), privileged=True).accuracy.value == 1.0


def test_pass_and_majority_agree_with_the_samples() -> None:
    result = measured()
    some = sum(any(row) for row in result.correct_PK.tolist()) / 12
    assert result.pass_at[4].value == pytest.approx(some)
    assert result.pass_at[1].value == pytest.approx(result.accuracy.value)
    votes = [sum(row) for row in result.correct_PK.tolist()]
    expected = sum(1.0 if v > 2 else 0.5 if v == 2 else 0.0 for v in votes) / 12
    assert result.majority.value == pytest.approx(expected)


def test_resume_of_a_directory_after_a_kill(tmp_path: Path) -> None:
    directory = EvaluationDirectory.create(tmp_path / "e", {"model": "m"})
    whole = measured()
    for sample in whole.samples[:7]:
        directory.append("made", sample)
    with (directory.path / SAMPLES).open("a") as out:
        out.write('{"benchmark": "made", "prob')  # killed while writing
    with EvaluationDirectory.open(directory.path) as again:
        again.require_same({"model": "m"})
        done = again.samples("made")
        assert done == whole.samples[:7]
        rest = measured(done=done, on_sample=lambda sample: again.append("made", sample))
        assert rest.samples == whole.samples
        assert set(again.samples("made")) == set(whole.samples)


def test_directory_lock_excludes_a_second_process(tmp_path: Path) -> None:
    with (
        EvaluationDirectory.create(tmp_path / "e", {}) as directory,
        pytest.raises(RunError, match="another process"),
        EvaluationDirectory.open(directory.path),
    ):
        pass


def test_require_same_refuses_other_settings(tmp_path: Path) -> None:
    directory = EvaluationDirectory.create(tmp_path / "e", {"model": "m", "seed": 1, "samples": 2})
    directory.require_same({"model": "m", "seed": 1, "samples": 4})
    with pytest.raises(RunError, match="other settings: seed"):
        directory.require_same({"model": "m", "seed": 2, "samples": 2})


def test_keep_problems_refuses_a_changed_set(tmp_path: Path) -> None:
    directory = EvaluationDirectory.create(tmp_path / "e", {})
    directory.keep_problems({"made": PROBLEMS[:3]})
    directory.keep_problems({"made": PROBLEMS})  # more of the same
    first = PROBLEMS[0]
    corrected = Problem(first.id, first.question, None, "7", "made")
    other = Problem(first.id, "0 + 3", None, first.answer, "made")
    with pytest.raises(RunError, match="now has the answer '7', and had '2'"):
        directory.keep_problems({"made": (corrected,)})
    with pytest.raises(RunError, match="another one than when"):
        directory.keep_problems({"made": (other,)}, regrading=True)
    directory.keep_problems({"made": (corrected,)}, regrading=True)
    assert directory.problems()["made"]["p0"] == {"question": "0 + 2", "answer": "7"}
    assert len(directory.problems()["made"]) == len(PROBLEMS)


def test_assemble_refuses_missing_samples() -> None:
    whole = measured()
    ids = [p.id for p in PROBLEMS]
    with pytest.raises(RunError, match=r"lacks 1 of 48 samples, the first is number 3 of .*'p11'"):
        assemble("made", ids, whole.samples[:-1], 4)
    with pytest.raises(RunError, match="lacks 12 of 60"):
        assemble("made", ids, whole.samples, 5)
    assert assemble("made", ids, whole.samples, 3).samples_per_problem == 3


def sample(problem: str, index: int, answer: str | None, status: str, tokens: int = 5) -> Sample:
    text = "" if answer is None else f"\\boxed{{{answer}}}"
    return Sample(problem, index, text, tokens, "stop", answer, status, status == "correct")


def test_majority_vote_is_by_meaning_not_spelling() -> None:
    rows = {
        # Three spellings of one wrong answer outvote two right samples; by spelling, right wins.
        "p": [("1/2", "correct"), ("0.5", "correct"), ("\\frac{1}{3}", "wrong"),
              ("1/3", "wrong"), ("\\dfrac13", "wrong")],
        # A tie of right and wrong counts half.
        "q": [("2", "correct"), ("2", "correct"), ("3", "wrong"), ("3.0", "wrong"),
              (None, "no_answer")],
    }  # fmt: skip
    samples = [
        sample(problem, index, answer, status)
        for problem, row in rows.items()
        for index, (answer, status) in enumerate(row)
    ]
    result = assemble("made", list(rows), samples, 5)
    assert result.majority.value == pytest.approx((1 + 1) / 2)
    with MathGrader() as grader:
        voted = result.with_votes(grader)
    assert voted.majority.value == pytest.approx((0 + 0.5) / 2)
    assert voted.accuracy == result.accuracy


def test_token_statistics_of_right_and_wrong_samples() -> None:
    samples = [
        sample("p", 0, "1", "correct", 10), sample("p", 1, "1", "correct", 20),
        sample("q", 0, "2", "wrong", 90), sample("q", 1, None, "no_answer", 400),
    ]  # fmt: skip
    assert assemble("made", ["p", "q"], samples, 2).token_statistics() == {
        "mean": 130, "median": 55, "p90": pytest.approx(307), "max": 400, "total": 520,
        "mean_of_right": 15, "mean_of_wrong": 245,
    }  # fmt: skip


def test_regrade_corrects_grades_of_a_wrong_gold(tmp_path: Path) -> None:
    directory = EvaluationDirectory.create(tmp_path / "e", {})
    result = measured(FakePolicy(skill=1.0), samples=1)
    for sample in result.samples:
        directory.append("made", sample)
    wrong = tuple(Problem(p.id, p.question, None, "0", "made") for p in PROBLEMS)
    with MathGrader() as grader:
        assert directory.regrade({"made": wrong}, grader) == (12, 12)
        assert not any(s.correct for s in directory.samples("made"))
        with pytest.raises(RunError, match="not among the problems"):
            directory.regrade({"made": PROBLEMS[:3]}, grader)
        assert directory.regrade({"made": PROBLEMS}, grader) == (12, 12)
    assert directory.samples("made") == result.samples


@pytest.mark.parametrize("at", [1, 2, 5])
def test_interrupt_in_on_sample_doubles_no_sample(tmp_path: Path, at: int) -> None:
    """It comes between a sample's line and whatever follows: each is there once, or not at all."""
    log, calls = Log(tmp_path / "samples.jsonl"), 0

    def keep(sample: Sample) -> None:
        nonlocal calls
        log.append(sample.as_dict())
        calls += 1
        if calls == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(on_sample=keep)
    rows = [(row["problem_id"], row["sample_index"]) for row in log.rows()]
    assert len(rows) == len(set(rows)) >= at
    done = [Sample(**row) for row in log.rows()]
    assert measured(done=done) == measured() or measured(done=done).samples == measured().samples


def test_interrupt_within_a_log_line_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.append({"n": 1})

    class Cut(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(bytes(data)[:4])
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "open", lambda self, *_, **__: Cut(self, "a"))
        log.append({"n": 2})
    log.append({"n": 3})
    assert list(log.rows()) == [{"n": 1}, {"n": 3}]
