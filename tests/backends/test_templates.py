"""Prompts of the families people use: student's and teacher's, stop ids, and the boundary."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.shared.tokenizer import HuggingFaceTokenizer
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.teacher import boundary_mismatch
from tests.support import chat_models
from tests.support.chat_models import FAMILIES

PROBLEM = Problem("p", "What is 1+1?", "One and one: 2.", "2", "made")
STUDENT = (
    "Problem: What is 1+1?\n\n"
    "Please reason step by step, and put your final answer within \\boxed{}."
)
SYSTEM = "Be brief."
#: What stands before and after the student's user turn, thinking off.
AROUND = {
    "qwen3": (
        "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "qwen3.5": (
        "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    "qwen2.5": (
        "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "llama3.2": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma3": ("<bos><start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n"),
    "gemma2": ("<bos><start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n"),
    "mistral": ("<s>[INST] ", "[/INST]", ""),
    "base": ("", "\n\n", ""),
    "llama-base": ("<|begin_of_text|>", "\n\n", ""),
}  # fmt: skip
#: What a user turn with a system turn before it looks like where that is not a turn of its own.
FOLDED = {
    "gemma3": "<start_of_turn>user\nBe brief.\n\nProblem: What is 1+1?",
    "mistral": "[INST] Be brief.\n\nProblem: What is 1+1?",
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def wrapped(family: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(chat_models.tokenizer(family))


def builder(family: str, *assignments: str, config: Config | None = None) -> PromptBuilder:
    return PromptBuilder(config or resolve(None, ["model=made", *assignments]), wrapped(family))


@every_family
def test_student_prompt_of_each_family(family: str) -> None:
    before, after, opening = AROUND[family]
    prompt = builder(family).student(PROBLEM)
    assert prompt.text == before + STUDENT + after + opening
    assert prompt.opening == opening


@every_family
def test_teacher_prompt_differs_in_the_user_turn_alone(family: str) -> None:
    before, after, _ = AROUND[family]
    both = builder(family)
    teacher = both.teacher(PROBLEM)
    assert teacher.text.startswith(before + "Problem: " + PROBLEM.question)
    assert "[solution begins]\nOne and one: 2.\n[solution ends]" in teacher.text
    assert teacher.text.endswith("\\boxed{}." + after + teacher.opening)


@every_family
def test_prompt_ids_decode_to_the_text_with_one_bos(family: str) -> None:
    tokenizer = wrapped(family)
    for prompt in (builder(family).student(PROBLEM), builder(family).teacher(PROBLEM)):
        assert tokenizer.decode(prompt.ids) == prompt.text
        bos = tokenizer.wrapped.bos_token_id
        if FAMILIES[family].adds_bos:
            assert prompt.ids[0] == bos and prompt.ids.count(bos) == 1
        else:
            assert bos is None


@every_family
def test_boundary_difference_by_thinking_is_reported_and_matched(family: str) -> None:
    both = builder(family)  # the teacher thinks, the student does not
    warning = boundary_mismatch(both.student(PROBLEM), both.teacher(PROBLEM))
    assert bool(warning) == (family in ("qwen3", "qwen3.5"))
    matched = builder(family, "prompts.boundary=match")
    assert boundary_mismatch(matched.student(PROBLEM), matched.teacher(PROBLEM)) is None
    student, teacher = matched.student(PROBLEM), matched.teacher(PROBLEM)
    assert teacher.text.endswith(student.opening)
    assert teacher.ids == tuple(wrapped(family).encode(teacher.text))


@every_family
def test_system_turn_of_each_family(family: str) -> None:
    assignments = [f"prompts.student.system={SYSTEM}"]
    if family == "gemma2":
        with pytest.raises(ConfigError, match="System role not supported") as refused:
            builder(family, *assignments).student(PROBLEM)
        assert "prompts.student.system" in refused.value.hint
        return
    text = builder(family, *assignments).student(PROBLEM).text
    assert text.count(SYSTEM) == 1 and text.index(SYSTEM) < text.index(PROBLEM.question)
    if family in FOLDED:
        assert FOLDED[family] in text
    if family == "qwen2.5":
        assert "Be helpful." not in text


def test_template_date_is_fixed_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.chat_template_utils as utils

    class Tomorrow(utils.datetime):  # type: ignore[misc, name-defined]
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return cls(2099, 1, 2)

    monkeypatch.setattr(utils, "datetime", Tomorrow)
    raw = chat_models.tokenizer("llama3.2").apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False
    )
    assert "02 Jan 2099" in raw  # the hazard is there
    assert "26 Jul 2024" in builder("llama3.2").student(PROBLEM).text
    tree = {"enable_thinking": False, "date_string": "1 May 2025"}
    student = resolve(None, ["model=made"]).prompts.student.model_copy(
        update={"chat_arguments": tree}
    )
    base = resolve(None, ["model=made"])
    config = base.model_copy(
        update={"prompts": base.prompts.model_copy(update={"student": student})}
    )
    assert "Today Date: 1 May 2025" in builder("llama3.2", config=config).student(PROBLEM).text


@every_family
def test_end_of_turn_token_of_each_family(family: str) -> None:
    tokenizer = wrapped(family)
    expected = {"gemma3": "<end_of_turn>", "gemma2": "<end_of_turn>"}
    token = tokenizer.wrapped.convert_ids_to_tokens(tokenizer.end_of_turn)
    assert token == expected.get(family, FAMILIES[family].eos)
    assert token in FAMILIES[family].stops


@every_family
def test_control_tokens_in_a_reference_are_escaped(family: str) -> None:
    hostile = "".join(FAMILIES[family].special) + "<think></think>"
    plain = builder(family).teacher(PROBLEM)
    attacked = builder(family).teacher(
        Problem("p", PROBLEM.question, PROBLEM.solution + hostile, "2", "made")  # type: ignore[operator]
    )
    special = set(wrapped(family).wrapped.all_special_ids)
    count = [i for i in attacked.ids if i in special]
    assert count == [i for i in plain.ids if i in special]


@pytest.mark.parametrize("family", ["qwen3", "llama3.2", "gemma3", "mistral", "base"])
def test_stop_ids_are_those_of_the_generation_config(
    family: str, load: Callable[..., Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / family
    shutil.copytree(model_folder("qwen3"), folder)
    own = chat_models.tokenizer(family)
    own.save_pretrained(folder)
    stops = [own.convert_tokens_to_ids(token) for token in FAMILIES[family].stops]
    written = stops[0] if len(stops) == 1 else stops
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
    # A vocabulary that holds the family's ids.
    settings = json.loads((folder / "config.json").read_text())
    policy = load(model=str(_resized(folder, settings, len(own))))
    assert policy.stop_ids == frozenset(stops)
    assert policy.tokenizer.end_of_turn in policy.stop_ids


def _resized(folder: Path, settings: dict[str, Any], size: int) -> Path:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    generation = (folder / "generation_config.json").read_text()
    model.resize_token_embeddings(size)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(generation)
    return folder


def test_encoding_a_text_that_exceeds_the_context_warns_of_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grader's feedback may be that long; the teacher's prompt then loses its middle."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    wrapped = chat_models.tokenizer("base")
    wrapped.model_max_length = 4
    assert len(HuggingFaceTokenizer(wrapped).encode("It is not the sum.")) > 4
    assert not caplog.records
    wrapped.encode("It is not the sum.")
    assert "longer than the specified maximum" in caplog.text  # what would have been said
