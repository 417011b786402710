"""The model card of an export: the run's facts, its prompt, and code that runs as it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import opsd_cli
from opsd_cli.config.resolve import to_yaml
from opsd_cli.embedded import MODEL_DIR
from opsd_cli.exporting import FORMATS
from opsd_cli.loading import resolved_config
from opsd_cli.model_card import CARD, MODELFILE, card, write_card
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.training.result import TrainResult
from tests.support import modelfiles
from tests.support.exports import QUESTION, Exported, code_of, exported_run, forms, stand_in_vllm

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


def test_model_card_names_another_model_that_taught(run: Path) -> None:
    assert "Teacher:" not in card_of(None)
    config = opsd_cli.load_config(
        model="org/base", **{"teacher.model": "org/big@v1", "teacher.reference": "answer"}
    )
    (run / "config.yaml").write_text(to_yaml(config))
    assert "- Teacher: `org/big@v1`; its reference: `answer`\n" in card_of(None)


def test_model_card_of_a_run_without_grades_has_its_held_out_measures(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["divergence"], result["accuracy"] = result["accuracy"], {}
    (run / "result.json").write_text(json.dumps(result))
    text = card_of(None)
    assert (
        "- Measured on the test split (95% interval), in nats a token: divergence from the teacher "
        "0.6250 (0.5000 to 0.7500); before training 0.2500 (0.1250 to 0.3750); nothing was graded"
    ) in text
    assert "Accuracy on" not in text


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


@pytest.mark.parametrize(("repository", "folder"), [(None, "exports/mine"), ("org/its", "its")])
def test_model_card_converts_a_folder_in_an_environment_of_its_own(
    run: Path, repository: str | None, folder: str
) -> None:
    """What requirements-convert_hf_to_gguf.txt pins would replace opsd's torch and transformers."""
    config = opsd_cli.load_config("run")
    directory = Path("exports/mine")
    text = card(config, "transformers", directory, repository=repository, modelfile=True)
    shell = text.partition("## GGUF")[2].partition("```sh\n")[2].partition("```")[0]
    assert f"/convert_hf_to_gguf.py {folder} " in shell
    for line in shell.splitlines():
        assert "pip install" not in line or line.startswith("gguf-env/bin/pip")
    assert f"lms import --copy {folder}/model.gguf\n" in shell  # which moves it otherwise
    assert ("hf download org/its --local-dir its\n" in shell) == (repository is not None)
    assert f"llama-server -m {folder}/model.gguf --port 8000" in text


def test_model_card_overwrites_nothing(run: Path) -> None:
    folder = run.parent / "there"
    folder.mkdir()
    (folder / CARD).write_text("mine")
    write_card(folder, opsd_cli.load_config("run"), "peft", folder)
    assert (folder / CARD).read_text() == "mine"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step of the embedded model."""
    small = {
        "train.steps": 1, "train.questions_per_step": 2, "preflight.enabled": False,
        "data.validation_problems": 2, "data.test_problems": 2, "backend": "cpu",
        "sampling.max_new_tokens": 8,
    }  # fmt: skip
    directory = tmp_path_factory.mktemp("trained") / "run"
    opsd_cli.train(opsd_cli.load_config(**small), directory)
    return directory


@pytest.fixture
def exported(trained: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Exported:
    return exported_run(trained, tmp_path / "mine", request.param)


@pytest.mark.parametrize(
    ("exported", "heading"),
    [("peft", "transformers and peft"), ("merged", "transformers")],
    indirect=["exported"],
)
def test_model_card_code_asks_with_the_prompt_of_training(
    exported: Exported, heading: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert tuple(exported.run(heading)["ids"][0].tolist()) == exported.prompt.ids
    assert capsys.readouterr().out.strip()


@forms("mlx", "merged")
def test_model_card_code_of_mlx_lm_asks_with_the_prompt_of_training(
    exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlx_lm", exc_type=ImportError)
    capsys.readouterr()
    assert tuple(exported.run("mlx_lm")["ids"]) == exported.prompt.ids
    assert capsys.readouterr().out.strip()


@forms("mlx", "merged")
def test_printed_command_asks_with_the_prompt_of_training(
    trained: Path, exported: Exported, request: pytest.FixtureRequest
) -> None:
    """`mlx_lm.generate` counts the tokens of the prompt that it was given."""
    pytest.importorskip("mlx_lm", exc_type=ImportError)
    config = opsd_cli.load_config(trained, checkpoint="last")
    form = FORMATS[request.node.callspec.params["exported"]]
    line = form.usage(exported.folder, config).partition("\n")[2]
    command = line.replace("What is 2 + 3?", QUESTION)
    command = command.replace("mlx_lm.generate", f"{sys.executable} -m mlx_lm generate")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert f"Prompt: {len(exported.prompt.ids)} tokens" in done.stdout, done.stderr


@forms("peft", "merged")
def test_model_card_code_of_vllm_asks_with_the_prompt_of_training(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in that has the classes which the code imports."""
    made = stand_in_vllm(monkeypatch)
    exported.run("vLLM")
    assert capsys.readouterr().out == "an answer\n"
    assert tuple(made["prompt"]["prompt_token_ids"]) == exported.prompt.ids
    assert made["sampling"]["max_tokens"] == 8 and made["sampling"]["temperature"] == 1.0
    if "lora_request" in made:
        assert made["lora_request"] == ("mine", 1, str(exported.folder))
        assert made["enable_lora"] and made["max_lora_rank"] == 32
    else:
        assert made["model"] == str(exported.folder)


@forms("peft", "merged")
def test_model_card_request_to_a_server_renders_the_prompt_of_training(exported: Exported) -> None:
    card = (exported.folder / CARD).read_text()
    assert "vllm serve" in card
    body = json.loads(card.partition("<<'JSON'\n")[2].partition("\nJSON\n")[0])
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    body["messages"][-1]["content"] = body["messages"][-1]["content"].replace("...", QUESTION)
    text = tokenizer.apply_chat_template(
        body["messages"], tokenize=False, add_generation_prompt=True, **body["chat_template_kwargs"]
    )
    assert text == exported.prompt.text and body["model"] == "mine"


@forms("merged")
def test_modelfile_renders_the_prompt_of_training(exported: Exported) -> None:
    found = modelfiles.read((exported.folder / MODELFILE).read_text())
    assert found.prompt(QUESTION) == exported.prompt.text
    assert found.weights == "./model.gguf" and ("num_predict", "8") in found.parameters
    assert ("stop", "<|im_end|>") in found.parameters
