"""Exports of a run with worked examples and stop strings: every program is given both.

On the embedded model, and on the same model without its chat template.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import opsd_cli
from backends.interface import Sampling
from opsd_cli import Listener, usage_code
from opsd_cli.embedded import MODEL_DIR
from opsd_cli.exporting import FORMATS
from opsd_cli.model_card import MODELFILE
from opsd_cli.problems import few_shot
from opsd_cli.training.layout import ENVIRONMENT
from tests.support.exports import QUESTION, Exported, exported_run, forms, stand_in_vllm

#: Every solution of the embedded problems has it.
STOP = "."
SMALL = {
    "train.steps": 1, "train.questions_per_step": 2, "preflight.enabled": False,
    "data.validation_problems": 2, "data.test_problems": 2, "backend": "cpu",
    "sampling.max_new_tokens": 8, "prompts.few_shot.examples": 2, "data.train": "embedded",
}  # fmt: skip


@pytest.fixture(scope="module", params=["chat", "plain"])
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A run of one step with two worked examples, with and without a chat template."""
    folder = tmp_path_factory.mktemp(request.param)
    model = folder / "model"
    shutil.copytree(MODEL_DIR, model)
    if request.param == "plain":
        without_chat_template(model)
    config = opsd_cli.load_config(model=str(model), **SMALL)
    opsd_cli.train(config, folder / "run")
    return folder / "run"


@pytest.fixture
def exported(trained: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Exported:
    return exported_run(trained, tmp_path / "mine", request.param)


def without_chat_template(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    (model / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(model)
    assert AutoTokenizer.from_pretrained(model).chat_template is None


@pytest.mark.parametrize(
    ("exported", "heading"),
    [("peft", "transformers and peft"), ("merged", "transformers")],
    indirect=["exported"],
)
def test_few_shot_card_code_asks_with_the_prompt_of_training(
    exported: Exported, heading: str
) -> None:
    assert tuple(exported.run(heading)["ids"][0].tolist()) == exported.prompt.ids
    assert exported.prompt.text.count("What is the result?") == 3


@forms("mlx")
def test_few_shot_card_code_of_mlx_lm_asks_with_the_prompt_of_training(exported: Exported) -> None:
    pytest.importorskip("mlx_lm", exc_type=ImportError)
    assert tuple(exported.run("mlx_lm")["ids"]) == exported.prompt.ids


@forms("merged")
def test_few_shot_command_asks_with_the_prompt_of_training(
    trained: Path, exported: Exported
) -> None:
    pytest.importorskip("mlx_lm", exc_type=ImportError)
    config = opsd_cli.load_config(trained, checkpoint="last")
    line = FORMATS["merged"].usage(exported.folder, config).partition("\n")[2]
    command = line.replace("What is 2 + 3?", QUESTION)
    command = command.replace("mlx_lm.generate", f"{sys.executable} -m mlx_lm generate")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert f"Prompt: {len(exported.prompt.ids)} tokens" in done.stdout, done.stderr
    assert "--ignore-chat-template" in command


@forms("merged")
def test_few_shot_request_and_modelfile_render_the_prompt_of_training(exported: Exported) -> None:
    body = exported.request
    tokenizer = AutoTokenizer.from_pretrained(exported.folder)
    if tokenizer.chat_template is None:
        assert "/v1/completions" in exported.card and "chat_template_kwargs" not in body
        head, _, tail = body["prompt"].rpartition("...")
        text = head + QUESTION + tail
    else:
        assert "/v1/chat/completions" in exported.card
        messages, arguments = body["messages"], body["chat_template_kwargs"]
        messages[-1]["content"] = messages[-1]["content"].replace("...", QUESTION)
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **arguments
        )
    assert text == exported.prompt.text
    template = (exported.folder / MODELFILE).read_text().partition('TEMPLATE """')[2]
    rendered = template.partition('"""\n')[0].replace("{{ .Prompt }}", QUESTION)
    assert rendered == exported.prompt.text


def told_without_examples(run: Path, folder: Path) -> tuple[Exported, str]:
    """An export of a run whose worked examples are not known, and its warnings."""
    warnings: list[str] = []

    class Told(Listener):
        def warn(self, text: str) -> None:
            warnings.append(text)

    return exported_run(run, folder, "peft", Told()), "\n".join(warnings)


def test_few_shot_card_of_changed_examples_has_no_code(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    environment = run / ENVIRONMENT
    digest = few_shot.digest(few_shot.examples_of(opsd_cli.load_config(run)))
    assert digest in environment.read_text()
    environment.write_text(environment.read_text().replace(digest, "0" * 16))
    exported, warned = told_without_examples(run, tmp_path / "mine")
    assert "they have changed since the run" in exported.card and "they have changed" in warned
    assert "```python" not in exported.card and "vllm serve" not in exported.card


def test_stop_strings_are_given_to_every_program(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = run / "config.yaml"
    assert config.read_text().count("\n  stop: []\n") == 1
    stop = json.dumps([STOP, "\n"])
    config.write_text(config.read_text().replace("\n  stop: []\n", f"\n  stop: {stop}\n"))
    merged = exported_run(run, tmp_path / "mine", "merged")
    assert merged.request["stop"] == [STOP, "\n"]
    assert f'PARAMETER stop "{STOP}"\n' in (merged.folder / MODELFILE).read_text()
    made = stand_in_vllm(monkeypatch)
    merged.run("vLLM")
    assert made["sampling"]["stop"] == [STOP, "\n"]
    capsys.readouterr()
    merged.run("transformers")
    assert STOP not in capsys.readouterr().out
    assert f"stop_strings=['{STOP}', '\\n'], tokenizer=tokenizer" in merged.card
    assert f"before the first of these strings: `'{STOP}'`" in merged.card
    assert FORMATS["merged"].usage(merged.folder, opsd_cli.load_config(run)).count("\n") == 0


@forms("merged")
def test_stop_strings_cut_the_answer_of_mlx_lm(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mlx_lm.generate` has no stop strings, so the code cuts its text."""
    mlx_lm = pytest.importorskip("mlx_lm", exc_type=ImportError)
    monkeypatch.setattr(mlx_lm, "generate", lambda *_, **__: "five\nand. more")
    use = usage_code.Use(
        name="mine", base="", directory=str(exported.folder), rank=8,
        sampling=Sampling(max_new_tokens=8, stop=(STOP, "\n")),
    )  # fmt: skip
    capsys.readouterr()
    exec(usage_code.programs(use, "transformers")["mlx_lm"], {})
    assert capsys.readouterr().out == "five\n"
