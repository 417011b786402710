"""Conversations: prompts as transformers renders them, and training on each backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.interface import Backend, PolicyGradientBatch
from backends.shared.tokenizer import HuggingFaceTokenizer
from opsd_cli import methods
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.methods.base import StepInputs
from opsd_cli.problems import Problem
from opsd_cli.problems.chats import Turns, as_text
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support import chat_models
from tests.support.backend_fixtures import LORA
from tests.support.chat_models import FAMILIES
from tests.support.fakes import FakePolicy
from tests.support.problem_files import write_jsonl

#: Fixed, as the prompts of a run must not depend on the day.
ARGUMENTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
TURNS: Turns = (("user", "1 + 1"), ("assistant", "It is 2."), ("user", "And 1 more?"))
SYSTEM: Turns = (("system", "Be brief."),)


def chat(turns: Turns) -> Problem:
    return Problem("p", as_text(turns), r"So \boxed{3}.", "3", "made", turns=turns)


def config_of(**prompts: Any) -> Config:
    student = {"template": "{question}", "chat_arguments": ARGUMENTS}
    teacher = {"template": "{question} {solution}", "chat_arguments": ARGUMENTS, **prompts}
    return Config.model_validate({"prompts": {"student": student, "teacher": teacher}})


def rendered(family: str, turns: Turns) -> list[int]:
    """The ids of a conversation by transformers itself, without a template of ours."""
    messages = [{"role": role, "content": text} for role, text in turns]
    ids = chat_models.tokenizer(family).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, **ARGUMENTS
    )
    return list(ids)


@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name].template])
@pytest.mark.parametrize("before", [(), SYSTEM], ids=["plain", "system"])
def test_prompts_of_a_conversation_are_those_of_transformers(family: str, before: Turns) -> None:
    turns = (*before, *TURNS)
    both = PromptBuilder(config_of(), HuggingFaceTokenizer(chat_models.tokenizer(family)))
    if family == "gemma2" and before:
        with pytest.raises(ConfigError, match="System role not supported") as caught:
            both.student(chat(turns))
        assert "take system turns out of chats" in caught.value.hint
        return
    assert list(both.student(chat(turns)).ids) == rendered(family, turns)
    told = (*turns[:-1], ("user", r"And 1 more? So \boxed{3}."))
    assert list(both.teacher(chat(turns)).ids) == rendered(family, told)


@pytest.mark.parametrize("family", ["qwen3", "qwen2.5", "llama3.2", "gemma3", "mistral"])
def test_reference_in_the_system_turn_is_rendered_once(family: str) -> None:
    config = config_of(place="system", system_template="Known: {solution}")
    both = PromptBuilder(config, HuggingFaceTokenizer(chat_models.tokenizer(family)))
    told = (("system", "Be brief.\n\nKnown: So \\boxed{3}."), *TURNS)
    assert list(both.teacher(chat((*SYSTEM, *TURNS))).ids) == rendered(family, told)


def test_model_without_a_chat_template_reads_the_turns_as_text() -> None:
    both = PromptBuilder(config_of(), HuggingFaceTokenizer(chat_models.tokenizer("base")))
    text = "Be brief.\n\n1 + 1\n\nIt is 2.\n\nAnd 1 more?\n\n"
    assert both.student(chat((*SYSTEM, *TURNS))).text == text


def test_sft_learns_the_last_answer_of_a_conversation_alone() -> None:
    config = config_of().model_copy(update={"method": "sft"})
    builder = PromptBuilder(config, FakePolicy.tokenizer)
    policy, problem = FakePolicy(), chat((*SYSTEM, *TURNS))
    inputs = StepInputs(1, [problem], (), builder, TeacherAnalyst(config, policy, builder))
    (batch,) = methods.get(config).build_loss(inputs, policy).batches
    assert isinstance(batch, PolicyGradientBatch)
    (item,) = batch.items
    assert FakePolicy.tokenizer.decode(item.completion) == r"So \boxed{3}.<|im_end|>"
    assert "It is 2." in FakePolicy.tokenizer.decode(item.prompt)
    assert len(item.advantages) == len(item.completion)


@pytest.mark.parametrize("method", ["opsd", "sft"])
def test_conversations_are_trained_on(
    backend: Backend, model_folder: Callable[[str], Path], tmp_path: Path, method: str
) -> None:
    def row(n: int) -> dict[str, Any]:
        answers = (f"It is {n + 1}.", f"\\boxed{{{n + 2}}}")
        asked = (f"{n} + 1", "And 1 more?")
        turns = [{"role": "system", "content": "Be brief."}]
        for question, answer in zip(asked, answers, strict=True):
            turns += [{"role": "user", "content": question}]
            turns += [{"role": "assistant", "content": answer}]
        return {"messages": turns}

    write_jsonl(tmp_path / "chats.jsonl", [row(n) for n in range(20)])
    config = resolve(
        None,
        [
            f"data.train={tmp_path / 'chats.jsonl'}", f"method={method}", "seed=3",
            f"model={model_folder('qwen3')}", f"backend={backend.name}", "train.steps=2",
            "train.questions_per_step=3", "sampling.max_new_tokens=4", "preflight.enabled=false",
            "prompts.teacher.place=system",
            "prompts.teacher.system_template=Known: {solution}",
            "prompts.student.template={question}", "optimizer.learning_rate=0.05",
        ],
        {"lora": LORA},
    )  # fmt: skip
    directory = tmp_path / "run"
    with Run.create(directory, config, {}) as run:
        result = train(backend.load(run.config, trainable=True), load_splits(config), run)
    assert result.steps == 2 and result.tokens.trained > 0
    rows = list(read_rows(directory / run_directory.METRICS))
    assert all(row["grad_norm"] > 0 for row in rows)
    for row in read_rows(directory / run_directory.ROLLOUTS):
        assert "Be brief." in row["prompt"] and "It is" in row["prompt"]
        assert "Be brief.\n\nKnown: " in row["teacher_prompt"]
