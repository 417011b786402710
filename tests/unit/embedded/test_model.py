"""The embedded model: its size, and its accuracy with and without the reference."""

from __future__ import annotations

import json

import pytest

import backends
from opsd_cli.config.resolve import resolve
from opsd_cli.embedded import MODEL_DIR
from opsd_cli.evaluation.evaluate import evaluate, evaluation_sampling
from opsd_cli.grading.mathematics import MathGrader
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder

pytest.importorskip("torch")


def test_size_and_model_card() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < 6_000_000
    card = (MODEL_DIR / "README.md").read_text(encoding="utf-8")
    assert "What it is not" in card and "python -m opsd_cli.embedded" in card
    last = json.loads((MODEL_DIR / "recipe.json").read_text(encoding="utf-8"))["history"][-1]
    assert 0.4 <= last["without_reference"] <= 0.6 and last["with_reference"] >= 0.95


def test_accuracy_with_and_without_the_reference() -> None:
    config = resolve("embedded", ["backend=cpu"])
    policy = backends.get("cpu").load(config, trainable=False)
    builder = PromptBuilder(config, policy.tokenizer, policy.context_limit)
    problems = load_splits(config).validation.problems
    with MathGrader() as grader:
        without_reference, with_reference = (
            evaluate(
                policy, "validation", problems, prompt_of, evaluation_sampling(config),
                samples=2, seed=0, grader=grader,
            )
            for prompt_of in (builder.student, builder.teacher)
        )  # fmt: skip
        assert 0.4 <= without_reference.accuracy.value <= 0.6
        assert with_reference.accuracy.value >= 0.95
        assert with_reference.truncated == 0
