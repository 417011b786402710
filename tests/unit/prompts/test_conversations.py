"""Prompts of conversations: both roles' turns, the place of the reference, worked examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, DataError
from opsd_cli.planning.memory_plan import estimated
from opsd_cli.problems import Problem
from opsd_cli.problems.chats import Turns, as_text
from opsd_cli.problems.few_shot import examples_of
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import ESCAPE
from tests.support.small_tokenizers import CharacterTokenizer

TURNS: Turns = (
    ("system", "Be brief."), ("user", "1 + 1"), ("assistant", "It is 2."), ("user", "And 1 more?"),
)  # fmt: skip
BEFORE = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1<|im_end|>\n"
    "<|im_start|>assistant\nIt is 2.<|im_end|>\n"
)
OPENING = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def chat(turns: Turns = TURNS, solution: str | None = "2 + 1 = 3") -> Problem:
    return Problem("p", as_text(turns), solution, "3", "made", turns=turns)


def config_of(**prompts: Any) -> Config:
    teacher = {"chat_arguments": {"enable_thinking": False}, **prompts.pop("teacher", {})}
    student = {"template": "Q: {question}", **prompts.pop("student", {})}
    tree = {"prompts": {"student": student, "teacher": teacher, **prompts}}
    return Config.model_validate(tree)


def builder(**prompts: Any) -> PromptBuilder:
    return PromptBuilder(config_of(**prompts), CharacterTokenizer())


def last(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n"


def test_student_prompt_of_a_conversation_words_the_last_turn_alone() -> None:
    prompt = builder().student(chat())
    assert prompt.text == BEFORE + last("Q: And 1 more?") + OPENING
    assert prompt.opening == OPENING


def test_teacher_prompt_of_a_conversation_has_the_reference_in_the_last_turn() -> None:
    prompt = builder(teacher={"template": "{question} ({solution})"}).teacher(chat())
    assert prompt.text == BEFORE + last("And 1 more? (2 + 1 = 3)") + OPENING


def test_teacher_prompt_with_the_reference_in_the_system_turn() -> None:
    settings = {"place": "system", "system_template": "Known: {solution}"}
    both = builder(teacher={**settings, "system": "Be kind."})
    placed = BEFORE.replace("Be brief.", "Be brief.\n\nKnown: 2 + 1 = 3")
    assert both.teacher(chat()).text == placed + last("Q: And 1 more?") + OPENING
    plain = both.teacher(Problem("q", "1 + 1", "2.", "2", "made"))
    system = "<|im_start|>system\nBe kind.\n\nKnown: 2.<|im_end|>\n"
    assert plain.text == system + last("Q: 1 + 1") + OPENING
    alone = builder(teacher=settings).teacher(Problem("q", "{solution}", "2.", "2", "made"))
    assert alone.text == (
        "<|im_start|>system\nKnown: 2.<|im_end|>\n" + last("Q: {solution}") + OPENING
    )


def test_reference_in_the_system_turn_is_shortened_alone() -> None:
    settings = {"place": "system", "max_tokens": 300}
    prompt = builder(teacher={**settings, "system_template": "Known: {solution}"}).teacher(
        chat(solution="x" * 500)
    )
    assert prompt.shortened and len(prompt.ids) <= 300
    assert "[...]" in prompt.text and "And 1 more?" in prompt.text and "It is 2." in prompt.text


def test_reference_in_the_system_turn_is_followed_by_the_analysis() -> None:
    settings = {"place": "system", "system_template": "Known: {solution}"}
    prompt = builder(teacher=settings).teacher(chat(), "Add.")
    assert "Known: 2 + 1 = 3\n\nYour analysis of this solution:\nAdd.<|im_end|>" in prompt.text
    noted = {**settings, "system_template": "{analysis} Known: {solution}"}
    assert "Add. Known: 2 + 1 = 3<|im_end|>" in builder(teacher=noted).teacher(chat(), "Add.").text


def test_analysis_request_of_a_conversation_follows_its_turns() -> None:
    prompt = builder(teacher={"analysis_template": "{question}: why {solution}?"})
    assert prompt.analysis_request(chat()).text == (
        BEFORE + last("And 1 more?: why 2 + 1 = 3?") + OPENING
    )


def test_system_turn_is_the_chats_own_or_else_the_configs() -> None:
    settings = {"student": {"system": "Be kind."}, "teacher": {"system": "Be kind."}}
    both, again = builder(**settings), builder(**settings)
    for own in (both.student(chat()), both.teacher(chat())):
        assert "Be brief." in own.text and "Be kind." not in own.text
    for given in (again.student(chat(TURNS[1:])), again.teacher(chat(TURNS[1:]))):
        assert given.text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")


def test_control_tokens_in_any_turn_are_escaped() -> None:
    turns = tuple((role, f"{text}<|im_end|>") for role, text in TURNS)
    plain, hostile = builder().student(chat()), builder().student(chat(turns))
    assert [i for i in hostile.ids if i < 4] == [i for i in plain.ids if i < 4]
    assert hostile.text.replace(f"<{ESCAPE}|im_end|>", "") == plain.text


def test_boundary_of_a_conversation_can_be_matched() -> None:
    thinking = {"chat_arguments": {"enable_thinking": True}}
    both = builder(teacher=thinking, boundary="match")
    assert both.teacher(chat()).opening == both.student(chat()).opening == OPENING


def test_place_needs_its_placeholder() -> None:
    with pytest.raises(ConfigError, match=r"system_template must contain \{solution\} exactly"):
        resolve(None, ["prompts.teacher.system_template=Known."])


def rows(path: Path, chats: int, plain: int) -> Path:
    lines = [
        {"messages": [
            {"role": "user", "content": f"{n} + 1"}, {"role": "assistant", "content": f"{n + 1}"},
            {"role": "user", "content": "And 1 more?"},
            {"role": "assistant", "content": f"\\boxed{{{n + 2}}}"},
        ]}
        for n in range(chats)
    ]  # fmt: skip
    lines += [
        {"messages": [
            {"role": "user", "content": f"{n} + 5"},
            {"role": "assistant", "content": f"\\boxed{{{n + 5}}}"},
        ]}
        for n in range(plain)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_few_shot_examples_are_single_questions_before_the_conversation(tmp_path: Path) -> None:
    def few(data: Path) -> Config:
        asked = [f"data.train={data}", "model=made", "prompts.few_shot.examples=2"]
        return resolve(None, [*asked, "prompts.student.template=Q: {question}"])

    config = few(rows(tmp_path / "both.jsonl", 30, 30))
    examples = examples_of(config)
    assert len(examples) == 2 and not any(example.turns for example in examples)
    text = PromptBuilder(config, CharacterTokenizer()).student(chat()).text
    first = text.index(f"Q: {examples[0].question}<|im_end|>")
    assert text.index("Be brief.") < first < text.index("\n1 + 1<|im_end|>")
    with pytest.raises(DataError, match=r"has 0 worked examples, and .* asks for 2"):
        examples_of(few(rows(tmp_path / "chats.jsonl", 30, 0)))


def test_planned_prompt_lengths_count_every_turn() -> None:
    turns = (("system", "s" * 3000), ("user", "u" * 3000), ("assistant", "a" * 3000), TURNS[-1])
    plain = estimated(config_of(), [Problem("q", "And 1 more?", "2.", "2", "made")])
    assert estimated(config_of(), [chat(turns)]).student >= plain.student + 3000
