"""Evaluation: the same samples whatever the order, nothing lost, nothing drawn twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.interface import Sampling
from opsd_cli.context import Contexts
from opsd_cli.errors import RunError
from opsd_cli.evaluation import Evaluation, Sample, evaluate
from opsd_cli.evaluation_store import SAMPLES, EvaluationDirectory
from opsd_cli.grading import Grader
from opsd_cli.problems import Problem
from opsd_cli.resolve import resolve
from tests.opsd_cli.fakes import FakePolicy

PROBLEMS = tuple(
    Problem(f"p{n}", f"{n} + 2", f"{n} + 2 = {n + 2}", str(n + 2), "made") for n in range(12)
)


def measured(
    policy: FakePolicy | None = None,
    problems: tuple[Problem, ...] = PROBLEMS,
    samples: int = 4,
    seed: int = 0,
    limit: int = 80,
    **more: object,
) -> Evaluation:
    policy = policy or FakePolicy()
    contexts = Contexts(resolve(), policy.tokenizer)
    with Grader() as grader:
        return evaluate(
            policy, "made", problems, contexts, Sampling(max_new_tokens=limit),
            samples=samples, seed=seed, grader=grader, **more,
        )  # type: ignore[arg-type]  # fmt: skip


def test_every_sample_is_there_in_order_and_graded() -> None:
    result = measured()
    keys = [(s.problem_id, s.sample_index) for s in result.samples]
    assert keys == [(p.id, index) for p in PROBLEMS for index in range(4)]
    for sample in result.samples:
        right = sample.completion == f"\\boxed{{{int(sample.problem_id[1:]) + 2}}}<|im_end|>"
        assert sample.correct == right == (sample.status == "correct")
    assert result.accuracy.value == sum(s.correct for s in result.samples) / 48
    assert 0 < result.accuracy.value < 1
    assert result.accuracy.low < result.accuracy.value < result.accuracy.high


def test_samples_do_not_depend_on_the_company_they_keep() -> None:
    whole = {(s.problem_id, s.sample_index): s for s in measured().samples}
    part = measured(problems=PROBLEMS[::-1][:5], samples=2)
    assert all(whole[s.problem_id, s.sample_index] == s for s in part.samples)


def test_another_seed_draws_other_samples() -> None:
    assert measured(seed=0).samples != measured(seed=1).samples


def test_only_what_is_missing_is_drawn() -> None:
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


def test_a_directory_goes_on_after_a_kill(tmp_path: Path) -> None:
    store = EvaluationDirectory.create(tmp_path / "e", {"model": "m"})
    whole = measured()
    for sample in whole.samples[:7]:
        store.append("made", sample)
    with (store.directory / SAMPLES).open("a") as out:
        out.write('{"benchmark": "made", "prob')  # killed while writing
    again = EvaluationDirectory.resume(store.directory, {"model": "m"})
    done = again.samples("made")
    assert done == whole.samples[:7]
    rest = measured(done=done, on_sample=lambda sample: again.append("made", sample))
    assert rest.samples == whole.samples
    assert set(again.samples("made")) == set(whole.samples)


def test_samples_of_another_description_are_never_mixed(tmp_path: Path) -> None:
    EvaluationDirectory.create(tmp_path / "e", {"model": "m", "seed": 1})
    with pytest.raises(RunError, match="other settings: seed"):
        EvaluationDirectory.resume(tmp_path / "e", {"model": "m", "seed": 2})


def test_regrading_corrects_what_was_graded_against_a_wrong_gold(tmp_path: Path) -> None:
    store = EvaluationDirectory.create(tmp_path / "e", {})
    result = measured(FakePolicy(skill=1.0), samples=1)
    for sample in result.samples:
        store.append("made", sample)
    wrong = tuple(Problem(p.id, p.question, None, "0", "made") for p in PROBLEMS)
    with Grader() as grader:
        assert store.regrade({"made": wrong}, grader) == (12, 12)
        assert not any(s.correct for s in store.samples("made"))
        with pytest.raises(RunError, match="not among the problems"):
            store.regrade({"made": PROBLEMS[:3]}, grader)
        assert store.regrade({"made": PROBLEMS}, grader) == (12, 12)
    assert store.samples("made") == result.samples
