"""The student's and the teacher's prompts: exact text, escaping, shortening, boundary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_cli.errors import ConfigError, DataError
from opsd_cli.prompts.rendering import (
    ESCAPE,
    STUDENT_TEMPLATE,
    Template,
    escape_control_tokens,
    require_placeholders,
    student_prompt,
)
from opsd_cli.prompts.teacher import (
    GAP,
    TEACHER_TEMPLATE,
    boundary_mismatch,
    match_boundary,
    teacher_prompt,
)
from tests.support.small_tokenizers import TURNS, CharacterTokenizer

TOKENIZER = CharacterTokenizer()
STUDENT = Template(STUDENT_TEMPLATE, arguments={"enable_thinking": False})
TEACHER = Template(TEACHER_TEMPLATE, arguments={"enable_thinking": False})
pieces = st.sampled_from([*"ab{}\\ \n", *TURNS, "{question}", "{solution}"])
texts = st.lists(pieces, max_size=30).map("".join)


def test_student_prompt_is_exactly_this() -> None:
    prompt = student_prompt("What is 1+1?", STUDENT, TOKENIZER)
    assert prompt.text == (
        "<|im_start|>user\nProblem: What is 1+1?\n\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert list(prompt.ids) == TOKENIZER.encode(prompt.text)
    assert prompt.opening == "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_teacher_prompt_holds_the_reference_between_its_markers() -> None:
    prompt = teacher_prompt("Q?", "1 + 1 = 2", TEACHER, TOKENIZER)
    assert "Q?" in prompt.text
    assert "[solution begins]\n1 + 1 = 2\n[solution ends]" in prompt.text
    assert prompt.text.count("\\boxed{}") == 1
    assert not prompt.shortened


def test_system_turn_comes_first() -> None:
    prompt = student_prompt("Q?", Template(STUDENT_TEMPLATE, system="Be brief."), TOKENIZER)
    assert prompt.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


@given(texts, texts)
def test_placeholders_inside_values_are_never_filled(question: str, solution: str) -> None:
    filled = Template("A {question} B {solution} C").fill(question=question, solution=solution)
    assert filled == f"A {question} B {solution} C"


@given(texts)
def test_no_control_token_survives_escaping(text: str) -> None:
    escaped = escape_control_tokens(text, TOKENIZER)
    assert not any(token in escaped for token in TURNS)
    assert escaped.replace(ESCAPE, "") == text.replace(ESCAPE, "")


@given(texts, texts)
def test_a_prompt_has_only_its_own_control_tokens(question: str, solution: str) -> None:
    plain = teacher_prompt("", "", TEACHER, TOKENIZER)
    hostile = teacher_prompt(question, solution, TEACHER, TOKENIZER)
    count = [i for i in hostile.ids if i < len(TURNS)]
    assert count == [i for i in plain.ids if i < len(TURNS)]


@given(st.integers(0, 60), st.integers(0, 400))
def test_only_the_reference_is_shortened_and_from_its_middle(room: int, length: int) -> None:
    question = "Who counts?"
    solution = "".join(chr(ord("A") + i % 26) for i in range(length))
    bare = len(teacher_prompt(question, "", TEACHER, TOKENIZER).ids)
    limit = bare + len(GAP) + 2 + room
    prompt = teacher_prompt(question, solution, TEACHER, TOKENIZER, max_tokens=limit)
    assert len(prompt.ids) <= limit
    assert question in prompt.text
    assert prompt.text.endswith(prompt.opening)
    assert prompt.shortened == (length > len(GAP) + 2 + room)
    if prompt.shortened:
        start = prompt.text.index("[solution begins]\n") + len("[solution begins]\n")
        kept = prompt.text[start : prompt.text.index("\n[solution ends]")]
        head, tail = kept.split(GAP)
        assert solution.startswith(head) and solution.endswith(tail)
        assert abs(len(head) - len(tail)) <= 1
        assert len(prompt.ids) >= limit - 1  # no more is cut than has to be


def test_a_question_that_does_not_fit_is_refused_not_cut() -> None:
    with pytest.raises(
        DataError, match=r"takes \d+ tokens without its reference solution, .* the 50 allowed"
    ):
        teacher_prompt("x" * 100, "y", TEACHER, TOKENIZER, max_tokens=50)


def test_boundary_mismatch_is_found_and_mended() -> None:
    student = student_prompt("Q?", STUDENT, TOKENIZER)
    thinking = Template(TEACHER_TEMPLATE, arguments={"enable_thinking": True})
    teacher = teacher_prompt("Q?", "S", thinking, TOKENIZER)
    warning = boundary_mismatch(student, teacher)
    assert warning is not None and "</think>" in warning
    mended = match_boundary(student, teacher, TOKENIZER)
    assert boundary_mismatch(student, mended) is None
    assert mended.text == teacher_prompt("Q?", "S", TEACHER, TOKENIZER).text
    assert list(mended.ids) == TOKENIZER.encode(mended.text)


def test_matching_flags_need_no_mending() -> None:
    student = student_prompt("Q?", STUDENT, TOKENIZER)
    teacher = teacher_prompt("Q?", "S", TEACHER, TOKENIZER)
    assert boundary_mismatch(student, teacher) is None
    assert match_boundary(student, teacher, TOKENIZER) is teacher


@pytest.mark.parametrize("template", ["no placeholder", "{question} and {question}"])
def test_templates_need_each_placeholder_once(template: str) -> None:
    with pytest.raises(ConfigError, match="exactly once"):
        require_placeholders(template, ["question"], "prompts.student.template")
