"""The embedded model's recipe, at a tiny size: it runs, is reproducible, and leaves a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

torch = pytest.importorskip("torch")

from backends.pytorch.pretrain import IGNORED, Measured, Recipe, collate, pretrain  # noqa: E402
from opsd_cli.embedded.corpus import Document  # noqa: E402

TINY = Recipe(
    hidden=16,
    layers=1,
    intermediate=16,
    heads=2,
    key_value_heads=1,
    head_dim=8,
    batch=4,
    warmup=2,
    school=3,
    steps=5,
    decay=2,
    evaluate_every=2,
    evaluate_problems=2,
)


def build(folder: Path, recipe: Recipe = TINY) -> list[tuple[int, float, Measured | None]]:
    steps: list[tuple[int, float, Measured | None]] = []
    pretrain(recipe, folder, lambda *step: steps.append(step))
    return steps


def test_tiny_recipe_writes_a_loadable_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps = build(tmp_path)
    assert [step for step, _, _ in steps] == [1, 2, 3, 4, 5]
    assert [m.step for _, _, m in steps if m] == [2, 4, 5]
    assert [m["step"] for m in json.loads((tmp_path / "recipe.json").read_text())["history"]] == [
        2, 4, 5,
    ]  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == "qwen3"
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id[0] == tokenizer.eos_token_id


def test_pretraining_is_reproducible_from_its_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(tmp_path / name)
    build(tmp_path / "other", replace(TINY, seed=1))
    weights = {
        name: {k: v.tobytes() for k, v in load_file(tmp_path / name / "model.safetensors").items()}
        for name in ("one", "two", "other")
    }
    assert weights["one"] == weights["two"]
    assert weights["one"] != weights["other"]


def test_pretraining_labels_cover_completions_alone() -> None:
    ids, labels = collate([Document((1, 2), (3, 4)), Document((5,), (6,))], pad=0)
    assert ids.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert labels.tolist() == [[IGNORED, IGNORED, 3, 4], [IGNORED, 6, IGNORED, IGNORED]]
