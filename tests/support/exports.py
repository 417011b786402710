"""Exports of small runs: the code of their cards, and the prompt that this code has to give."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

import opsd_cli
from opsd_cli import Listener
from opsd_cli.exporting import export
from opsd_cli.model_card import CARD
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import Prompt

QUESTION = "Start with 12. Add 30. What is the result?"


def code_of(text: str, heading: str | None = None) -> str:
    """The Python under a heading of a card; by default the first."""
    after = text if heading is None else text.partition(f"### {heading}\n")[2]
    found = re.findall(r"^(```+)python\n(.*?)^\1$", after, re.MULTILINE | re.DOTALL)
    code = str(found[0][1])
    compile(code, "card", "exec")
    return code


@dataclass(frozen=True)
class Exported:
    """An export of a run, and the student's prompt for `QUESTION`."""

    folder: Path
    prompt: Prompt

    @property
    def card(self) -> str:
        return (self.folder / CARD).read_text()

    @property
    def request(self) -> dict[str, Any]:
        """The body of the request to a server."""
        body = self.card.partition("<<'JSON'\n")[2].partition("\nJSON\n")[0]
        found: dict[str, Any] = json.loads(body)
        return found

    def run(self, heading: str) -> dict[str, Any]:
        """Run the code under a heading of the card; its names afterwards."""
        code = code_of(self.card, heading)
        names: dict[str, Any] = {}
        exec(code.replace('question = "..."', f"question = {QUESTION!r}"), names)
        return names


def exported_run(run: Path, folder: Path, form: str, listener: Listener | None = None) -> Exported:
    """Export the last checkpoint of a run."""
    config = opsd_cli.load_config(run, checkpoint="last")
    policy = opsd_cli.load_policy(config, trainable=False)
    prompt = PromptBuilder(config, policy.tokenizer).student(
        Problem("a", QUESTION, None, "42", "typed")
    )
    export(config, form, folder, listener or Listener())
    return Exported(folder, prompt)


def stand_in_vllm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Modules with the classes of vLLM that a card imports; what these are given is returned."""
    made: dict[str, Any] = {}

    class LLM:
        def __init__(self, model: str, **more: Any) -> None:
            made.update(model=model, **more)

        def get_tokenizer(self) -> Any:
            return AutoTokenizer.from_pretrained(made["model"])

        def generate(self, prompt: dict[str, Any], sampling: Any, **more: Any) -> Any:
            made.update(prompt=prompt, sampling=sampling, **more)
            return [SimpleNamespace(outputs=[SimpleNamespace(text="an answer")])]

    fake: Any = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, lambda **given: given
    lora: Any = ModuleType("vllm.lora.request")
    lora.LoRARequest = lambda *given: given
    for name, module in (
        ("vllm", fake), ("vllm.lora", ModuleType("vllm.lora")), ("vllm.lora.request", lora)
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return made


def forms(*names: str) -> pytest.MarkDecorator:
    """Runs a test with the fixture `exported` in each of these formats."""
    return pytest.mark.parametrize("exported", names, indirect=True)
