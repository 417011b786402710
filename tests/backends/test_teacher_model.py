"""Conformance: another model as the teacher (`teacher.model`), of the student's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backends.interface import DivergenceBatch, RolloutRequest, Sampling
from opsd_cli.errors import ModelError, TrainingError
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support import oracle, tiny_models
from tests.support.backend_fixtures import Load
from tests.support.loss_batches import ITEMS, dense_loss

SPEC = DivergenceSpec("jsd", 0.3)


@pytest.fixture(scope="session")
def bigger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build_teacher(tmp_path_factory.mktemp("teachers") / "bigger")


@pytest.fixture
def copy_of_student(model_folder: Callable[[str], Path], tmp_path: Path) -> str:
    return str(model_folder("qwen3"))


def batch(teacher: str = "model", again: bool = False) -> DivergenceBatch:
    return DivergenceBatch(ITEMS, SPEC, teacher, again)  # type: ignore[arg-type]


def test_teacher_model_of_the_students_own_weights_gives_the_same_bits(
    load: Load, copy_of_student: str, tmp_path: Path
) -> None:
    own, other = load(), load(teacher={"model": copy_of_student})
    for step in range(2):
        for policy, teacher in ((own, "initial"), (other, "model")):
            report = policy.accumulate(batch(teacher))
            policy.apply(0.05)
            policy.save_adapter(tmp_path / f"{teacher}-{step}")
            (tmp_path / f"{teacher}-{step}.loss").write_text(repr(report.loss))
        ours, theirs = (tmp_path / f"{t}-{step}" for t in ("initial", "model"))
        assert oracle.weights(ours).keys() == oracle.weights(theirs).keys()
        for name, value in oracle.weights(ours).items():
            np.testing.assert_array_equal(value, oracle.weights(theirs)[name])
        assert (tmp_path / f"initial-{step}.loss").read_text() == (
            tmp_path / f"model-{step}.loss"
        ).read_text()


def test_bigger_teacher_model_equals_the_dense_divergence(
    load: Load, model_folder, adapter_folder, bigger: Path, tmp_path: Path
) -> None:
    adapter = adapter_folder()
    policy = load(teacher={"model": str(bigger)}, train={"micro_batch_tokens": 20})
    policy.load_adapter(adapter)
    student, teacher = oracle.Dense(model_folder("qwen3"), adapter), oracle.dense(bigger)
    values, loss = dense_loss(batch(), student, teacher)
    wanted = student.gradient(loss)
    report = policy.accumulate(batch(again=True))
    assert report.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for found, value in zip(report.tokens, values, strict=True):
        np.testing.assert_allclose(found.value, value.detach(), atol=2e-5)
    assert report.teacher_tokens == sum(len(i.teacher_prompt) + len(i.completion) for i in ITEMS)
    oracle.assert_close(oracle.gradient(policy, tmp_path / "gradient"), wanted)


def test_teacher_model_is_read_once_for_a_batch_that_is_trained_on_again(
    load: Load, bigger: Path
) -> None:
    policy = load(teacher={"model": str(bigger)})
    twice = batch(again=True)
    first, second = policy.accumulate(twice), policy.accumulate(twice)
    assert first.teacher_tokens > 0 and second.teacher_tokens == 0
    assert second.loss == first.loss


def test_teacher_model_scores_and_samples(load: Load, bigger: Path) -> None:
    policy = load(teacher={"model": str(bigger)}, trainable=False)
    pairs = [(item.teacher_prompt, item.completion) for item in ITEMS]
    teacher = oracle.dense(bigger)
    found = policy.score(pairs, "teacher", "model", Sampling(1.3))
    for (prompt, completion), scores in zip(pairs, found, strict=True):
        log_p = (teacher.logits(prompt, completion) / 1.3).log_softmax(-1)
        wanted = log_p[range(len(completion)), list(completion)].detach()
        np.testing.assert_allclose(scores, wanted, atol=2e-5)
    # The initial weights, which GRPO's penalty reads, stay the student's own.
    own = load(trainable=False).score(pairs, "teacher", "initial")
    for one, other in zip(own, policy.score(pairs, "teacher", "initial"), strict=True):
        np.testing.assert_array_equal(one, other)
    requests = [RolloutRequest(str(n), 0, (5, 6, 7), n) for n in range(12)]
    sampling = Sampling(max_new_tokens=12)
    rollouts = list(policy.generate(requests, sampling, "teacher", "model"))
    stopped = [r for r in rollouts if r.finish_reason == "stop"]
    # The teacher stops at id 1, the student at 0: what is read as text ends with the student's.
    assert stopped and all(r.completion_ids[-1] == 0 for r in stopped)
    for rollout in rollouts:
        ids = rollout.completion_ids[: -1 if rollout.finish_reason == "stop" else None]
        [scores] = policy.score([((5, 6, 7), ids)], "teacher", "model") if ids else [ids]
        np.testing.assert_allclose(rollout.log_probs[: len(ids)], scores, atol=2e-5)


def test_teacher_model_of_another_vocabulary_is_refused(
    load: Load, model_folder: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelError, match=r"token 2 is '<pad>' there and '<unk>' in the student"):
        load(teacher={"model": str(model_folder("llama"))})


def test_teacher_without_a_model_is_refused(load: Load) -> None:
    with pytest.raises(TrainingError, match="no other model"):
        load().score([((5,), (6,))], "teacher", "model")
