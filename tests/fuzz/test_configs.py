"""The config fuzzer: a short form, and the long one with `--long`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.configs import FILES, HOSTILE, every_key_by_every_value, outcome, trial

FINE = ("resolved", "refused")
#: Each once ended in an unexpected exception or a hang.
ONCE = [
    "optimizer.betas=[1.0, 0.999]", "optimizer.betas=[0.9, 1.5]", "optimizer.betas=[-0.1, 0.9]",
    "optimizer.betas=[.nan, 0.9]", "seed=9223372036854775808", "seed=" + "1" + "0" * 30,
    "seed=" + "9" * 5000, "prompts.student.chat_arguments={1: 2}",
    "prompts.student.chat_arguments={a: 2020-01-01}", "prompts.student.chat_arguments={a: .nan}",
    "prompts.student.chat_arguments={a: !!binary aGk=}", "prompts.student.chat_arguments=3",
    "prompts.teacher.chat_arguments={tokenize: true}",
    "prompts.teacher.chat_arguments={messages: []}", "grading.deadline_seconds=1e10",
    "grading.deadline_seconds=.inf", "grading.deadline_seconds=.nan", "train.steps=1" + "0" * 30,
    "sampling.max_new_tokens=1" + "0" * 30, "sampling.temperature=1e-320",
    "divergence.temperature=1e-320", "optimizer.learning_rate=.inf", "hybrid.mix=.nan",
    "rollouts.importance_cap=.inf", "lora.alpha=.inf", "train.steps=!!timestamp 2020-13-45",
    "train.steps=" + "1" * 400, "train.steps=" + "[" * 36 + "1" + "]" * 36,
]  # fmt: skip


@pytest.mark.parametrize("assignment", ONCE, ids=lambda text: text[:50])
def test_config_value_that_once_crashed_is_refused_in_a_line(
    assignment: str, tmp_path: Path
) -> None:
    what, case = outcome(None, [assignment], {}, tmp_path)
    assert what == "refused", case


def test_config_model_name_too_long_for_a_folder(tmp_path: Path) -> None:
    assert outcome(None, ["model=" + "a" * 3000], {}, tmp_path)[0] == "resolved"


@pytest.mark.parametrize("place", range(len(FILES)))
def test_fuzzed_config_file_resolves_or_is_refused_in_a_line(place: int, tmp_path: Path) -> None:
    what, case = outcome(FILES[place], [], {}, tmp_path)
    assert what in FINE, case


@pytest.mark.parametrize("seed", range(3))
def test_fuzzed_config_values_resolve_or_are_refused_in_a_line(seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"configs {seed}")
    results = [trial(rng, tmp_path) for _ in range(50)]
    assert [result for result in results if result[0] not in FINE] == []
    assert {what for what, _ in results} == set(FINE)


@pytest.mark.long
def test_every_config_key_with_every_value_resolves_or_is_refused_in_a_line(tmp_path: Path) -> None:
    results = [outcome(*case, tmp_path) for case in every_key_by_every_value()]
    assert [result for result in results if result[0] not in FINE] == []
    assert len(results) > 100 * len(HOSTILE)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_many_fuzzed_config_values_resolve_or_are_refused_in_a_line(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(f"many configs {seed}")
    results = [trial(rng, tmp_path) for _ in range(1000)]
    assert [result for result in results if result[0] not in FINE] == []
