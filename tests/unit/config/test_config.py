"""Config resolution: precedence, presets, round trips, and errors with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.config.presets import preset_names, preset_path
from opsd_cli.config.resolve import resolve, to_yaml, validate
from opsd_cli.config.schema import Config, key_paths
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.errors import ConfigError
from opsd_cli.evaluation.evaluate import evaluation_view
from opsd_cli.methods import METHODS
from opsd_cli.prompts.rendering import EVALUATION_TEMPLATE, STUDENT_TEMPLATE


def test_config_default_is_the_embedded_preset() -> None:
    config = resolve()
    assert config.model == "embedded"
    assert config == resolve("embedded")


def test_config_default_of_another_model_is_the_published_recipe() -> None:
    config = resolve(flags={"model": "some/model"})
    assert (config.optimizer.learning_rate, config.lora.rank, config.sampling.top_k) == (
        5e-6,
        64,
        20,
    )
    assert config.data.train is None


def test_config_precedence_is_preset_file_set_flag(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: embedded\ntrain: {steps: 7, patience: 3}\nseed: 5\n")
    config = resolve(str(file), ["seed=6", "train.patience=4"], {"seed": 7, "model": None})
    assert (config.train.steps, config.train.patience, config.seed) == (7, 4, 7)
    assert config.sampling.max_new_tokens == resolve("embedded").sampling.max_new_tokens


def test_preset_may_build_on_another() -> None:
    long, default = (
        resolve(name, [], {"method": "grpo"}) for name in ("embedded-long", "embedded")
    )
    assert long.train.steps > default.train.steps
    assert long.rollouts == default.rollouts and long.optimizer == default.optimizer
    opsd = resolve("embedded-long")
    assert opsd.train.steps == 24 and opsd.train.passes == resolve("embedded").train.passes


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_valid_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    config = resolve(name)
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(config))
    assert validate(read_tree(path)) == config
    assert preset_path(name).read_text().startswith("# ")


def test_set_parses_scientific_notation_as_a_number() -> None:
    assert resolve(None, ["optimizer.learning_rate=1e-4"]).optimizer.learning_rate == 1e-4


def test_set_takes_text_keys_literally() -> None:
    config = resolve(
        None,
        ["prompts.student.template={question}: {}", "data.test=7", "prompts.student.system=null"],
    )
    assert config.prompts.student.template == "{question}: {}"
    assert config.data.test == "7"
    assert config.prompts.student.system is None


def test_config_every_key_has_a_help_text() -> None:
    assert [path for path, field in key_paths() if not field.description] == []


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        ("train.stepss=3", "unknown config key 'train.stepss'", "did you mean 'train.steps'"),
        ("lerning_rate=3", "unknown config key 'lerning_rate'", "optimizer.learning_rate"),
        ("train.steps=0", "train.steps", "Optimiser steps"),
        ("train.steps=many", "train.steps", "Optimiser steps"),
        ("divergence.kind=kl", "divergence.kind", "forward_kl"),
        ("train.steps", "is not key=value", "--set train.steps=50"),
        ("data=3", "data", "Which problems"),
        ("prompts.student.template=hello", "exactly once", ""),
    ],
)
def test_set_mistakes_are_explained_with_a_hint(assignment: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, [assignment])
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1", "line"),
        ("- a\n- b\n", "not a mapping"),
        ("preset: nosuch\n", "no preset 'nosuch'"),
        ("seed: 1\nseed: 2\n", "duplicate"),
    ],
)
def test_config_file_mistakes_are_explained(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve(str(path))


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{after}: &{after} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, "aliases stand for more than 100,000 values"),
        (MERGES, "aliases stand for more than 100,000 values"),
        ("a: &a [*a]\n", "stands for what it is part of"),
        ("a: " + "[" * 490 + "]" * 490, "nested more than 32 deep"),
        ("a: " + "[" * 100_000, "nested more than 32 deep"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("x" * (2**20 + 1), "longer than 1,048,576 characters"),
        ("seed: 2020-13-45", "not valid YAML: month must be in 1..12"),
        ("seed: " + "9" * 5000, "not valid YAML"),
        ("method: [opsd]", "method: input should be"),
        ("preset: [embedded]", "not a name"),
        ('model: "a\\0b"', "model holds a character that is no text"),
        ("optimizer: {betas: [0.9, 1.0]}", "betas.1: input should be less than 1"),
    ],
    ids=lambda text: text[:24],
)
def test_config_file_that_is_hostile_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(str(path))
    said = caught.value
    assert len(said.message) < 400 and "\n" not in said.message + said.hint


def test_config_file_that_is_endless_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than"):
        resolve("/dev/zero")


def test_config_file_may_use_yaml_aliases(tmp_path: Path) -> None:
    path = tmp_path / "fine.yaml"
    path.write_text("methods:\n  grpo: &rewards {train: {steps: 3}}\n  hybrid: *rewards\n")
    for method in ("grpo", "hybrid"):
        assert resolve(str(path), [], {"method": method}).train.steps == 3


def test_config_method_names_come_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'opsd', 'grpo', .* got 'mine'"):
        resolve(None, ["method=mine"])
    monkeypatch.setitem(METHODS, "mine", "a.module:Mine")
    assert resolve(None, ["method=mine"]).method == "mine"


def test_config_seed_is_at_most_63_bits() -> None:
    assert resolve(None, [f"seed={2**63 - 1}"]).seed == 2**63 - 1
    with pytest.raises(ConfigError, match="seed: input should be less than or equal"):
        resolve(None, [f"seed={2**63}"])


def test_config_that_is_missing_suggests_the_nearest_preset() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("embeded")
    assert "did you mean 'embedded'" in caught.value.hint


PAPER = ("qwen3-1.7b", "qwen3-4b", "qwen3-8b")


@pytest.mark.parametrize("size", PAPER)
def test_recipe_presets_have_the_published_values(size: str) -> None:
    """From the authors' scripts, apart from docs/recipes.md, which has them all."""
    opsd, first, nothink, grpo, sft = (
        resolve(f"{kind}-{size}") for kind in ("opsd", "opsd-v1", "opsd-nothink", "grpo", "sft")
    )
    everyone = (opsd, first, nothink, grpo, sft)
    for config in everyone:
        assert config.model.casefold() == f"qwen/{size}"
        assert (config.lora.rank, config.lora.alpha, len(config.lora.targets)) == (64, 128, 7)
        assert config.data.train == "openthoughts-30k" and config.train.patience is None
        assert config.optimizer.schedule == "linear"
    assert [c.method for c in everyone] == ["opsd", "opsd", "opsd", "grpo", "sft"]
    assert [c.train.questions_per_step for c in everyone] == [32, 32, 32, 4, 64]
    assert [c.optimizer.max_grad_norm for c in everyone] == [0.1, 1.0, 0.1, 1.0, 1.0]
    assert [c.optimizer.learning_rate for c in everyone] == [5e-6, 2e-5, 5e-6, 5e-6, 5e-6]
    assert [c.lora.dropout for c in everyone] == [0, 0, 0, 0.05, 0.05]
    assert [c.thinks for c in everyone] == [False, True, False, True, False]
    large = size == "qwen3-8b"
    assert opsd.divergence.kind == "forward_kl" and opsd.divergence.clip == "pointwise"
    assert opsd.divergence.clip_at == (0.06 if large else 0.05)
    assert nothink.divergence.clip_at == (1e-7 if large else 1e-6)
    for config in (opsd, nothink):
        drawn = config.sampling
        assert (drawn.temperature, drawn.top_p, drawn.top_k) == (1.1, 0.95, 20)
        assert drawn.max_new_tokens == 1024 and config.teacher.weights == "initial"
        assert config.prompts.student.chat_arguments == {"enable_thinking": False}
        assert config.prompts.teacher.chat_arguments == {"enable_thinking": config is opsd}
    assert opsd.train.steps == 100 and opsd.train.checkpoint_every == 25
    assert (first.divergence.kind, first.divergence.beta) == ("jsd", 0.5)
    assert first.divergence.clip == "none" and first.sampling.max_new_tokens == 2048
    assert first.train.steps == 300 and first.sampling.temperature == 1.2
    drawn = grpo.sampling
    assert (drawn.temperature, drawn.top_p, drawn.top_k) == (1.2, 1.0, 0)
    assert drawn.max_new_tokens == 16000 and grpo.grpo.kl == 0
    assert grpo.rollouts.per_question == 8 and grpo.train.passes == 2
    assert grpo.train.steps * grpo.train.passes == 500
    assert (grpo.grpo.scale, grpo.grpo.loss) == ("group", "grpo")
    assert grpo.grpo.clip_low == grpo.grpo.clip_high == 0.2
    assert sft.train.steps == 1824 and sft.sft.max_tokens == 16000
    hybrid = resolve(f"opsd-{size}", [], {"method": "hybrid"})
    assert (hybrid.hybrid.mix, hybrid.hybrid.spread) == (0.5, 0.2)
    assert hybrid.hybrid.decay_updates == 50 and hybrid.teacher.weights == "live"


def test_evaluation_presets_have_the_published_values() -> None:
    paper, plain = resolve("eval-paper").evaluation, resolve("eval-paper-nothink").evaluation
    assert (paper.samples, paper.temperature, paper.top_p, paper.top_k) == (12, 1.0, 0.95, 0)
    assert (plain.samples, plain.temperature, plain.top_p, plain.top_k) == (12, 1.0, 0.8, 0)
    assert (paper.thinking, plain.thinking) == (True, False)
    assert paper.max_new_tokens == 38912
    for section in (paper, plain, resolve("eval-qwen3").evaluation):
        assert section.template == EVALUATION_TEMPLATE


def test_evaluation_template_replaces_the_student_s_and_yields_to_a_set_s() -> None:
    config = resolve("eval-paper", ["prompts.student.template=Solve {question}"])
    assert evaluation_view(config).prompts.student.template == EVALUATION_TEMPLATE
    assert evaluation_view(config, "A: {question}").prompts.student.template == "A: {question}"
    plain = resolve(None, ["prompts.student.template=Solve {question}"])
    assert evaluation_view(plain).prompts.student.template == "Solve {question}"


def test_prompt_templates_are_as_published() -> None:
    config = Config()
    assert config.prompts.student.template == STUDENT_TEMPLATE
    assert STUDENT_TEMPLATE == "Problem: " + EVALUATION_TEMPLATE
    assert "backtrack" in config.prompts.teacher.template
    assert "copy or paraphrase" in config.prompts.teacher.template


def test_recipe_baseline_is_the_same_by_method_or_by_preset() -> None:
    by_method = resolve("opsd-qwen3-4b", [], {"method": "grpo"})
    assert by_method == resolve("grpo-qwen3-4b")


def test_preset_over_a_run_s_config_keeps_the_run_s_model(tmp_path: Path) -> None:
    run = tmp_path / "config.yaml"
    run.write_text(to_yaml(resolve("opsd-qwen3-4b", ["prompts.student.system=Be brief."])))
    config = resolve("eval-paper", ["evaluation.samples=3"], base=run)
    assert config.model == "Qwen/Qwen3-4B" and config.prompts.student.system == "Be brief."
    assert (config.evaluation.max_new_tokens, config.evaluation.samples) == (38912, 3)
    assert config.thinks and not resolve("opsd-qwen3-4b").thinks


@pytest.mark.filterwarnings("error")
def test_config_file_may_redefine_a_yaml_anchor_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "anchors.yaml"
    file.write_text("train: &a {steps: 2}\noptimizer: &a {learning_rate: 1e-4}\n")
    assert resolve(str(file)).train.steps == 2
