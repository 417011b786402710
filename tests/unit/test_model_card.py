"""The model card of an export: the run's facts, its prompt, and code that runs as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import opsd_cli
from opsd_cli import Listener
from opsd_cli.config.resolve import to_yaml
from opsd_cli.exporting import export
from opsd_cli.loading import resolved_config
from opsd_cli.model_card import CARD, card, write_card
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.training.result import TrainResult

TEMPLATE = "Solve {question}\n\n```\n\\boxed{}\n```"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's directory without weights: finished, best at step 5 of 10, with a checkpoint of 7."""
    monkeypatch.chdir(tmp_path)
    config = opsd_cli.load_config(
        model="org/base", method="sft", seed=3,
        **{"data.train": "words.jsonl", "prompts.student.template": TEMPLATE,
           "prompts.student.system": "Be brief.", "evaluation.samples": 4,
           "evaluation.temperature": 0.0},
    )  # fmt: skip
    for step in (0, 5, 7, 10):
        folder = tmp_path / f"run/checkpoints/step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    state = {"step": 10, "best_step": 5}
    (tmp_path / "run/checkpoints/step-000010/state.json").write_text(json.dumps(state))
    (tmp_path / "run/config.yaml").write_text(to_yaml(config))
    shares = {"base": 0.25, "best": 0.625, "final": 0.5}
    result = TrainResult(
        run_dir="run", method="sft", backend="cpu", steps=10, tokens=TokenLedger(),
        accuracy={}, best_step=5, seconds=1.0, cpu_seconds=1.0, training_cpu_seconds=1.0,
        stopped_because="all steps done",
    ).as_dict()  # fmt: skip
    result["accuracy"] = {
        name: {"value": share, "low": share - 0.125, "high": share + 0.125}
        for name, share in shares.items()
    }
    (tmp_path / "run/result.json").write_text(json.dumps(result))
    return tmp_path / "run"


def card_of(checkpoint: str | None, library: str = "peft", **changes: Any) -> str:
    flags = {"adapter": "run", **changes}
    config = resolved_config(None, (), flags, inherit=True, checkpoint=checkpoint)
    return card(config, library, Path("exports/mine"))


def code_of(text: str) -> str:
    ((_, code),) = re.findall(r"^(```+)python\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL)
    compile(code, "card", "exec")
    return str(code)


def test_model_card_has_the_facts_of_the_run(run: Path) -> None:
    text = card_of(None)
    for line in (
        "base_model: org/base",
        "library_name: peft",
        "- Base model: `org/base`",
        "- Training data: `words.jsonl`",
        "- Method: `sft`, LoRA of rank 64, seed 3",
        "- Steps: checkpoint of step 5 of 10",
        "- Accuracy on the test split (95% interval): 62.5% (50.0–75.0); before training "
        "25.0% (12.5–37.5); 4 sampled per problem, temperature 0",
        "The system turn:\n\n```\nBe brief.\n```",
        f"````\n{TEMPLATE}\n````",
        "{'enable_thinking': False}",
    ):
        assert line in text, text
    assert repr(TEMPLATE) in code_of(text) and "do_sample=False" in code_of(text)
    assert "adapter_path='exports/mine'" in code_of(card_of(None, "mlx"))
    assert "from_pretrained('exports/mine')" in code_of(card_of(None, "transformers"))


@pytest.mark.parametrize(
    ("checkpoint", "steps", "accuracy"),
    [
        ("last", "step 10 of 10", ": 50.0% (37.5–62.5)"),
        ("0", "step 0 of 10 (the untrained weights)", ": 25.0% (12.5–37.5)"),
        ("7", "step 7 of 10", ": not measured on the test split for this checkpoint"),
    ],
)
def test_model_card_has_the_accuracy_of_its_checkpoint(
    run: Path, checkpoint: str, steps: str, accuracy: str
) -> None:
    text = card_of(checkpoint)
    assert f"checkpoint of {steps}\n" in text
    assert accuracy in next(line for line in text.splitlines() if "Accuracy" in line)


def test_model_card_of_an_unfinished_run_and_of_an_adapter_without_one(run: Path) -> None:
    (run / "result.json").unlink()
    text = card_of("7")
    assert "the run has no result" in text and "%" not in text
    (run / "checkpoints" / "step-000007").rename(run.parent / "adapter")
    text = card(opsd_cli.load_config(adapter="adapter"), "peft", Path("exports/mine"))
    assert "Training: not known" in text and "## Prompt" not in text
    assert "enable_thinking" not in code_of(text)


def test_model_card_names_another_prompt_of_the_measurements(run: Path) -> None:
    config = opsd_cli.load_config(
        "run", **{"evaluation.template": "Q: {question}", "evaluation.thinking": True}
    )
    (run / "config.yaml").write_text(to_yaml(config.model_copy(update={"adapter": None})))
    text = card_of(None)
    assert "Accuracy was measured with this user turn:\n\n```\nQ: {question}\n```" in text
    assert "measured with these arguments" in text and "{'enable_thinking': True}" in text


def test_model_card_overwrites_nothing(run: Path) -> None:
    folder = run.parent / "there"
    folder.mkdir()
    (folder / CARD).write_text("mine")
    write_card(folder, opsd_cli.load_config("run"), "peft", folder)
    assert (folder / CARD).read_text() == "mine"


def test_model_card_code_asks_with_the_prompt_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed code, run on real exports of the embedded model."""
    monkeypatch.chdir(tmp_path)
    small = {
        "train.steps": 1, "train.questions_per_step": 2, "preflight.enabled": False,
        "data.validation_problems": 2, "data.test_problems": 2, "backend": "cpu",
    }  # fmt: skip
    opsd_cli.train(opsd_cli.load_config(**small), "run")
    config = opsd_cli.load_config("run", checkpoint="last")
    question = "Start with 12. Add 30. What is the result?"
    policy = opsd_cli.load_policy(config, trainable=False)
    prompt = PromptBuilder(config, policy.tokenizer).student(
        Problem("a", question, None, "42", "typed")
    )
    for form in ("peft", "merged"):
        export(config, form, tmp_path / form, Listener())
        code = code_of((tmp_path / form / CARD).read_text())
        names: dict[str, Any] = {}
        capsys.readouterr()
        exec(code.replace('question = "..."', f"question = {question!r}"), names)
        assert tuple(names["ids"][0].tolist()) == prompt.ids
        assert capsys.readouterr().out.strip()
