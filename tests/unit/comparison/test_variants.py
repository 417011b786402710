"""The arms of `opsd compare --vary`: how its text is read, the configs, labels and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from opsd_cli.comparison.jobs import (
    comparison_jobs,
    configs_of,
    evaluated_alike,
    plan_of,
    read_plan,
    tuning_jobs,
    write_plan,
)
from opsd_cli.comparison.variants import (
    Variation,
    arms_of,
    folders_of,
    parse_vary,
    require_measured_alike,
    split_values,
)
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, UsageError


def arms(*texts: str, grid: bool = False) -> tuple[dict[str, Config], Variation]:
    """The arms of the embedded preset's opsd."""

    def config_with(assignments: Sequence[str]) -> Config:
        return resolve(None, assignments, {"method": "opsd"})

    return arms_of("opsd", texts, grid, config_with)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ", ["a", "b"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("{a: [1,2], b: 3},null", ["{a: [1,2], b: 3}", "null"]),
        ("\"a,b\",'c,d'", ['"a,b"', "'c,d'"]),
        ('["a,]b"],["c"]', ['["a,]b"]', '["c"]']),
        ("it's,that's", ["it's", "that's"]),
        ("a,,b", ["a", "", "b"]),
        ("", [""]),
    ],
)
def test_vary_values_are_split_at_commas_outside_of_brackets_and_quotes(
    text: str, parts: list[str]
) -> None:
    assert split_values(text) == parts


def test_vary_text_with_a_comma_is_quoted_and_other_values_are_as_for_set() -> None:
    key, assignments = parse_vary('prompts.student.template="One, {question}",Two {question}')
    assert key == "prompts.student.template"
    assert assignments == [f"{key}=One, {{question}}", f"{key}=Two {{question}}"]
    assert parse_vary("sampling.stop=['a','b'],null") == (
        "sampling.stop", ["sampling.stop=['a','b']", "sampling.stop=null"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.passes", "is not KEY=A,B"), ("=1,2", "is not KEY=A,B"),
        ("train.passes=1,,2", "empty value"), ("train.passes=", "empty value"),
        ("seed=1,2", "cannot vary seed"), ("method=opsd,sft", "cannot vary method"),
    ],
)  # fmt: skip
def test_vary_refuses_a_text_that_is_no_choice(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_vary(text)


def test_vary_changes_one_key_at_a_time_from_the_config() -> None:
    configs, variation = arms("divergence.kind=forward_kl,reverse_kl,jsd", "train.passes=4,16")
    assert list(configs) == [
        "opsd", "opsd divergence.kind=forward_kl", "opsd divergence.kind=jsd",
        "opsd train.passes=4",
    ]  # fmt: skip
    assert variation.base_values == {"divergence.kind": "reverse_kl", "train.passes": 16}
    assert variation.changes["opsd train.passes=4"] == {"train.passes": 4}
    jsd = configs["opsd divergence.kind=jsd"]
    assert jsd.divergence.kind == "jsd" and jsd.train == configs["opsd"].train


def test_vary_with_grid_has_every_combination_once() -> None:
    configs, variation = arms("divergence.kind=reverse_kl,jsd", "train.passes=4,16", grid=True)
    assert list(configs) == [
        "opsd", "opsd train.passes=4", "opsd divergence.kind=jsd train.passes=4",
        "opsd divergence.kind=jsd",
    ]  # fmt: skip
    assert len(variation.changes) == 3


def test_vary_merges_equal_values_and_refuses_to_vary_nothing() -> None:
    configs, _ = arms("optimizer.learning_rate=1e-3,0.001,1.0e-3")
    assert list(configs) == ["opsd", "opsd optimizer.learning_rate=0.001"]
    with pytest.raises(UsageError, match="nothing to compare"):
        arms("train.passes=16")
    with pytest.raises(UsageError, match=r"names train\.passes twice"):
        arms("train.passes=4", "train.passes=8")


def test_vary_refuses_a_wrong_key_or_value_with_the_config_s_own_message() -> None:
    for text, message in (
        ("divergence.kid=jsd", "unknown config key"), ("train.passes=4,many", "train.passes"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            arms(text)


@pytest.mark.parametrize(
    ("text", "another"),
    [
        ("evaluation.samples=1,3", "evaluation sampling"),
        ("data.test_problems=10", "test problems"),
        ("data.train=x.jsonl", "test problems"),
        ("model=other", "base model"),
    ],
)
def test_vary_refuses_a_key_that_changes_what_is_measured(text: str, another: str) -> None:
    configs, variation = arms(text)
    with pytest.raises(UsageError, match=f"another {another}"):
        require_measured_alike(evaluated_alike(configs), variation)


def test_vary_of_a_length_limit_or_prompt_is_measured_alike() -> None:
    configs, variation = arms(
        "sampling.max_new_tokens=16,24", "prompts.student.template=Solve: {question}"
    )
    alike = evaluated_alike(configs)
    require_measured_alike(alike, variation)
    limits = {c.evaluation.max_new_tokens or c.sampling.max_new_tokens for c in alike.values()}
    assert len(limits) == 1


def test_vary_folders_are_safe_on_every_file_system() -> None:
    long = "x" * 300
    configs, variation = arms(
        'sampling.stop=["a/b:c*"],["A/B:C*"],["a:b/c*"]', f"prompts.student.system={long},{long}y"
    )
    names = list(variation.folders.values())
    assert len(names) == len(variation.changes) == 5
    assert len({name.casefold() for name in names}) == 5
    for name in names:
        assert set(name) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-"
        )
        assert len(name) < 120
    assert variation.folders[next(iter(variation.changes))].startswith("opsd+sampling.stop=")
    assert configs.keys() == {"opsd", *variation.changes}


def test_vary_plan_keeps_the_arms_for_resume(tmp_path: Path) -> None:
    configs, variation = arms("divergence.kind=jsd")
    write_plan(tmp_path, plan_of(configs, [0, 1], False, None, variation))
    plan = read_plan(tmp_path)
    assert Variation.of_plan(plan) == variation and configs_of(plan) == configs
    jobs = comparison_jobs(configs, [0], folders_of(plan))
    assert [job.name for job in jobs] == ["opsd-s0", "opsd+divergence.kind=jsd-s0"]
    assert [job.method for job in jobs] == list(configs)
    assert tuning_jobs(configs, folders_of(plan))[-1].name.startswith("tune/opsd+divergence.kind=")


def test_plan_of_a_comparison_without_vary_is_as_before(tmp_path: Path) -> None:
    configs = {"opsd": resolve(None, [], {"method": "opsd"})}
    plan = plan_of(configs, [0], False, None)
    assert set(plan) == {"seeds", "tune", "target", "configs"}
    assert folders_of(plan) == {}
    assert comparison_jobs(configs, [0], folders_of(plan))[0].name == "opsd-s0"
