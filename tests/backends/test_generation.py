"""Conformance: rollouts, against a dense model and the sampler's definition in NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    Rollout,
    RolloutRequest,
    Sampling,
    uniforms,
)
from opsd_cli.errors import ModelError
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support import oracle
from tests.support.backend_fixtures import Load
from tests.support.tiny_models import FAMILIES

PROMPTS = ((5, 6, 7, 8, 9, 10, 11), (12, 4), (3,), (20, 21, 22, 23), (12, 4), (7,) * 11)
REQUESTS = tuple(
    RolloutRequest(f"problem-{index}", sample, prompt, seed=100 * index + sample)
    for index, prompt in enumerate(PROMPTS)
    for sample in range(2)
)
EVERYTHING = Sampling(temperature=1.3, max_new_tokens=14)
FILTERED = Sampling(temperature=1.4, top_k=9, top_p=0.9, min_p=0.05, max_new_tokens=14)
GREEDY = Sampling(temperature=0.0, max_new_tokens=14)


def by_request(rollouts: Sequence[Rollout]) -> dict[tuple[str, int], Rollout]:
    found = {(r.request.problem_id, r.request.sample_index): r for r in rollouts}
    assert len(found) == len(rollouts)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "sampling",
    [
        EVERYTHING,
        FILTERED,
        Sampling(top_k=3, max_new_tokens=14),
        Sampling(top_p=0.6, max_new_tokens=14),
        Sampling(min_p=0.3, temperature=2.0, max_new_tokens=14),
    ],
    ids=["all", "filtered", "top_k", "top_p", "min_p"],
)
def test_drawn_tokens_invert_the_cumulative_distribution_at_the_seeds_uniforms(
    load: Load, model_folder: Callable[[str], Path], family: str, sampling: Sampling
) -> None:
    policy = load(family, rollouts={"batch_size": 5})
    model = oracle.dense(model_folder(family))
    rollouts = by_request(list(policy.generate(REQUESTS, sampling)))
    assert len(rollouts) == len(REQUESTS)
    dropped = 0
    for rollout in rollouts.values():
        ids = rollout.completion_ids
        assert 1 <= len(ids) <= sampling.max_new_tokens
        assert rollout.log_probs.dtype == np.float32 and len(rollout.log_probs) == len(ids)
        numbers = uniforms(rollout.request.seed, len(ids))
        logits_NV = model.logits(rollout.request.prompt_ids, ids).detach().numpy()
        for token, logits_V, number, log_prob in zip(
            ids, logits_NV, numbers, rollout.log_probs, strict=True
        ):
            p = oracle.filtered(logits_V, sampling)
            dropped += np.count_nonzero(p == 0)
            assert p[token] > 0
            assert log_prob == pytest.approx(np.log(p[token]), abs=1e-3)
            upper = p.cumsum()[token]
            assert upper - p[token] - 1e-4 <= number <= upper + 1e-4
    assert bool(dropped) == (sampling is not EVERYTHING)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_sampling_takes_the_most_probable_token(
    load: Load, model_folder: Callable[[str], Path], family: str
) -> None:
    policy = load(family)
    model = oracle.dense(model_folder(family))
    for rollout in policy.generate(REQUESTS, GREEDY):
        log_p = model.logits(rollout.request.prompt_ids, rollout.completion_ids).log_softmax(-1)
        assert tuple(log_p.argmax(-1).tolist()) == rollout.completion_ids
        np.testing.assert_allclose(rollout.log_probs, log_p.amax(-1).detach(), atol=2e-5)


@pytest.mark.parametrize("sampling", [EVERYTHING, FILTERED, GREEDY])
@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_do_not_depend_on_the_rest_of_the_batch(
    load: Load, family: str, sampling: Sampling
) -> None:
    found = []
    for order, size in ((REQUESTS, 64), (REQUESTS[::-1], 64), (REQUESTS[3:] + REQUESTS[:3], 5)):
        policy = load(family, rollouts={"batch_size": size})
        found.append(by_request(list(policy.generate(order, sampling))))
    alone = load(family, rollouts={"batch_size": 1})
    found.append(by_request(list(alone.generate(REQUESTS, sampling))))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, rollout in found[0].items():
            assert other[key].completion_ids == rollout.completion_ids
            assert other[key].finish_reason == rollout.finish_reason
            np.testing.assert_allclose(other[key].log_probs, rollout.log_probs, atol=1e-4)


def test_seeds_distinguish_samples_of_one_prompt(load: Load) -> None:
    same = RolloutRequest("p", 0, (5, 6), seed=1)
    again = RolloutRequest("p", 1, (5, 6), seed=1)
    other = RolloutRequest("p", 2, (5, 6), seed=2)
    found = by_request(list(load().generate([same, again, other], EVERYTHING)))
    ids = [found["p", index].completion_ids for index in range(3)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(1.3, 0.8), Sampling(1.1, 0.95, 5), Sampling(0.7, 1.0, 0, 0.1)],
    ids=["plain", "top-p", "top-k", "min-p"],
)
def test_scores_equal_the_sampler_s_log_probabilities(
    load: Load, family: str, sampling: Sampling
) -> None:
    policy, sampling = load(family), replace(sampling, max_new_tokens=14)
    rollouts = list(policy.generate(REQUESTS, sampling))
    pairs = [(r.request.prompt_ids, r.completion_ids) for r in rollouts]
    scores = policy.score(pairs, sampling=sampling)
    for rollout, score in zip(rollouts, scores, strict=True):
        assert score.dtype == np.float32
        np.testing.assert_allclose(score, rollout.log_probs, atol=2e-5)
    plain = np.concatenate(policy.score(pairs))
    assert (np.abs(plain - np.concatenate(scores)).max() > 0.01) == (sampling.temperature != 1)


def test_tokens_excluded_by_top_k_top_p_min_p_score_minus_infinity(load: Load) -> None:
    policy = load()
    drawn = list(policy.generate(REQUESTS, Sampling(max_new_tokens=14)))
    pairs = [(r.request.prompt_ids, r.completion_ids) for r in drawn]
    one = np.concatenate(policy.score(pairs, sampling=Sampling(top_k=1)))
    assert set(np.isneginf(one)) == {False, True}
    np.testing.assert_allclose(one[np.isfinite(one)], 0, atol=1e-6)


def test_rollouts_follow_the_students_current_weights(
    load: Load, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = oracle.random_adapter(model_folder("qwen3"), tmp_path / "adapter", 3)
    policy = load(trainable=False, adapter=str(folder))
    model = oracle.Dense(model_folder("qwen3"), folder)
    for rollout in policy.generate(REQUESTS, GREEDY):
        logits = model.logits(rollout.request.prompt_ids, rollout.completion_ids)
        assert tuple(logits.argmax(-1).tolist()) == rollout.completion_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_finish_reason_is_stop_or_length(load: Load, family: str) -> None:
    policy = load(family)
    requests = [RolloutRequest("p", seed, (5, 6), seed) for seed in range(60)]
    rollouts = list(policy.generate(requests, Sampling(temperature=1.5, max_new_tokens=9)))
    ended_on = set()
    for rollout in rollouts:
        *before, last = rollout.completion_ids
        assert not policy.stop_ids & set(before)
        if rollout.finish_reason == "stop":
            ended_on.add(last)
        else:
            assert last not in policy.stop_ids and len(before) + 1 == 9
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    assert ended_on == policy.stop_ids == ({0, 1} if family == "llama" else {0})


def test_stop_token_at_max_new_tokens_is_a_stop(load: Load) -> None:
    policy = load("llama")
    stopped = [
        rollout
        for rollout in policy.generate(REQUESTS, EVERYTHING)
        if rollout.finish_reason == "stop"
    ]
    for rollout in stopped:
        length = len(rollout.completion_ids)
        (again,) = policy.generate([rollout.request], Sampling(1.3, max_new_tokens=length))
        assert again.completion_ids == rollout.completion_ids
        assert again.finish_reason == "stop"
        if length > 1:
            shorter = Sampling(1.3, max_new_tokens=length - 1)
            (cut,) = policy.generate([rollout.request], shorter)
            assert cut.completion_ids == rollout.completion_ids[:-1]
            assert cut.finish_reason == "length"
    assert stopped


def test_context_limit_ends_a_completion(load: Load) -> None:
    policy = load("llama")
    assert policy.context_limit == 48
    requests = [RolloutRequest("p", n, (5,) * n, seed=n) for n in (45, 48, 60, 2)]
    found = by_request(list(policy.generate(requests, Sampling(0.0, max_new_tokens=200))))
    for n in (45, 2):
        rollout = found["p", n]
        room = 48 - n
        assert len(rollout.completion_ids) <= room
        assert (len(rollout.completion_ids) == room) == (rollout.finish_reason == "length")
    for n in (48, 60):
        assert found["p", n].completion_ids == ()
        assert found["p", n].finish_reason == "length"
        assert len(found["p", n].log_probs) == 0


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_completions_longer_than_the_sliding_window_equal_the_dense_model(
    load: Load, model_folder: Callable[[str], Path], family: str
) -> None:
    policy = load(family)
    requests = [RolloutRequest("p", n, tuple(range(3, 3 + n)), seed=n) for n in (1, 2, 20)]
    rollouts = list(policy.generate(requests, Sampling(1.5, max_new_tokens=150)))
    model = oracle.dense(model_folder(family))
    longest = 0
    for rollout in rollouts:
        ids = rollout.completion_ids
        longest = max(longest, len(ids))
        log_p = (model.logits(rollout.request.prompt_ids, ids) / 1.5).log_softmax(-1)
        np.testing.assert_allclose(
            rollout.log_probs, log_p[range(len(ids)), list(ids)].detach(), atol=1e-4
        )
    assert longest > 16


def test_each_rollout_is_yielded_when_it_finishes(load: Load) -> None:
    policy = load()
    rollouts = list(policy.generate(REQUESTS, EVERYTHING))
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_training_between_two_rollouts_does_not_change_them(load: Load) -> None:
    policy = load()
    wanted = by_request(list(policy.generate(REQUESTS, EVERYTHING)))
    item = DivergenceItem((5,), (6,), (7, 8))
    found = []
    for rollout in policy.generate(REQUESTS, EVERYTHING):
        found.append(rollout)
        policy.accumulate(DivergenceBatch((item,), DivergenceSpec(), "initial"))
        policy.apply(0.0)
    for key, rollout in by_request(found).items():
        assert rollout.completion_ids == wanted[key].completion_ids


def test_teacher_generates_with_its_own_weights(load: Load) -> None:
    policy = load(optimizer={"learning_rate": 1.0})
    base = by_request(list(policy.generate(REQUESTS, EVERYTHING)))
    items = tuple(DivergenceItem((5,), (6,), (7, 8, n)) for n in (9, 10))
    for _ in range(3):
        policy.accumulate(DivergenceBatch(items, DivergenceSpec(), "initial"))
        policy.apply(0.1)
    student = by_request(list(policy.generate(REQUESTS, EVERYTHING)))
    live = by_request(list(policy.generate(REQUESTS, EVERYTHING, "teacher", "live")))
    initial = by_request(list(policy.generate(REQUESTS, EVERYTHING, "teacher", "initial")))
    again = by_request(list(policy.generate(REQUESTS, EVERYTHING)))
    ids = [
        {key: rollout.completion_ids for key, rollout in found.items()}
        for found in (base, initial, student, live, again)
    ]
    assert ids[0] == ids[1] != ids[2] == ids[3] == ids[4]
    # They come as they finish, so that work can be stopped; in between the student is itself.
    pair, found = [((5, 6), (7, 8))], []
    before = policy.score(pair)[0]
    for rollout in policy.generate(REQUESTS, EVERYTHING, "teacher", "initial"):
        found.append(rollout.completion_ids)
        np.testing.assert_array_equal(policy.score(pair)[0], before)
        if len(found) == 3:
            break
    assert set(found) <= set(ids[1].values())
    np.testing.assert_array_equal(policy.score(pair)[0], before)


def test_ids_beyond_the_tokenizer_are_never_drawn(
    load: Load, model_folder: Callable[[str], Path]
) -> None:
    # The padded rows of this head give the largest logits of all (tests.support.tiny_models).
    ids = oracle.dense(model_folder("qwen3")).vocabulary
    policy = load()
    for sampling in (GREEDY, EVERYTHING, FILTERED):
        for rollout in policy.generate(REQUESTS, sampling):
            assert max(rollout.completion_ids) < ids


def test_a_prompt_without_tokens_is_refused(load: Load) -> None:
    with pytest.raises(ModelError, match="no tokens"):
        list(load().generate([RolloutRequest("p", 0, (), 0)], GREEDY))


def test_generate_of_no_requests_yields_nothing(load: Load) -> None:
    assert list(load().generate([], EVERYTHING)) == []


def test_uniform_numbers_depend_on_the_seed_alone() -> None:
    for seed, other in itertools.pairwise((0, 1, 2**63)):
        np.testing.assert_array_equal(uniforms(seed, 4), uniforms(seed, 9)[:4])
        assert (uniforms(seed, 4) != uniforms(other, 4)).any()
