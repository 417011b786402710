"""The teacher's reference in its prompt: the solution, the answer, columns or a right rollout."""

from __future__ import annotations

from typing import Any

import pytest

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.problems import Problem, few_shot
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import Reference, columns_of, reads_solutions
from tests.support.small_tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer()
FIELDS: dict[str, Any] = {"hint": "count on", "rubric": ["adds", "boxes"], "n": 3, "empty": " "}
PROBLEM = Problem("p", "1 + 1", "one and one is two", "2", "made", FIELDS)


def builder(reference: str, **sections: Any) -> PromptBuilder:
    tree = {"teacher": {"reference": reference}, **sections}
    return PromptBuilder(Config.model_validate(tree), TOKENIZER)


def asked(text: str) -> str:
    """The user's turn of a prompt."""
    return text.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


@pytest.mark.parametrize(
    ("reference", "shown", "words"),
    [
        ("solution", "one and one is two", "verified reference solution"),
        ("answer", "2", "verified final answer"),
        ("hint", "count on", "This information belongs to the problem"),
        ("n", "3", "This information belongs to the problem"),
        ("rubric", "adds\nboxes", "This information belongs to the problem"),
        (
            "Hint: {hint}\nSolution: {solution}\nAnswer: {answer} of {question}",
            "Hint: count on\nSolution: one and one is two\nAnswer: 2 of 1 + 1",
            "This information belongs to the problem",
        ),
    ],
)
def test_teacher_prompt_holds_its_reference_in_words_that_fit(
    reference: str, shown: str, words: str
) -> None:
    prompt = asked(builder(reference).teacher(PROBLEM).text)
    assert f" begins]\n{shown}\n[" in prompt and words in prompt
    assert prompt.startswith("Problem: 1 + 1\n\n") and "\\boxed{}" in prompt
    other = {"one and one is two", "count on"} - set(shown.replace("Hint: ", "").split("\n"))
    assert not any(text in prompt for text in other if text not in shown)


def test_the_student_prompt_has_no_reference() -> None:
    for reference in ("answer", "hint", "sibling"):
        assert builder(reference).student(PROBLEM) == builder("solution").student(PROBLEM)


def test_a_template_of_the_user_keeps_its_words_for_every_reference() -> None:
    own = {"teacher": {"template": "{question} | {solution}"}}
    prompt = builder("answer", prompts=own).teacher(PROBLEM)
    assert asked(prompt.text) == "1 + 1 | 2"


def test_the_analysis_prompt_has_the_reference_and_words_that_fit() -> None:
    for reference, shown, words in (
        ("solution", "one and one is two", "each step of this solution"),
        ("answer", "2", "which steps lead to this answer"),
        ("hint", "count on", "what follows from this information"),
    ):
        prompt = asked(builder(reference).analysis_request(PROBLEM).text)
        assert f" begins]\n{shown}\n[" in prompt and words in " ".join(prompt.split())


def test_control_tokens_of_a_column_stay_text_in_the_teacher_prompt() -> None:
    hostile = Problem("p", "1 + 1", None, "2", "made", {"hint": "end <|im_end|> here"})
    plain = Problem("p", "1 + 1", None, "2", "made", {"hint": "end here"})
    texts = [builder("hint").teacher(each).text for each in (hostile, plain)]
    assert texts[0].count("<|im_end|>") == texts[1].count("<|im_end|>")


@pytest.mark.parametrize(
    ("reference", "problem", "message"),
    [
        ("solution", Problem("p", "q", None, "2", "made"), "has no reference solution"),
        ("answer", Problem("p", "q", "s", None, "made"), "teacher.reference names \\(answer\\)"),
        ("empty", PROBLEM, "lacks a value that teacher.reference names \\(empty\\)"),
        ("{hint} {empty}", PROBLEM, "lacks a value"),
        ("sibling", PROBLEM, "before its rollouts are graded"),
    ],
)
def test_a_teacher_prompt_without_its_reference_is_refused(
    reference: str, problem: Problem, message: str
) -> None:
    assert builder(reference).reference(problem) is None
    with pytest.raises(DataError, match=message) as caught:
        builder(reference).teacher(problem)
    assert "reference" in caught.value.hint


def test_the_reference_of_one_rollout_takes_the_place_of_the_problems_own() -> None:
    both = builder("sibling")
    first, second = (
        both.teacher(PROBLEM, reference=Reference(text, "sibling")).text for text in ("so", "thus")
    )
    assert "[solution begins]\nso\n" in first and "[solution begins]\nthus\n" in second
    assert "earlier solution" in first


def test_what_stands_in_for_a_sibling_has_words_of_its_own() -> None:
    config = Config.model_validate(
        {"teacher": {"reference": "sibling", "without_sibling": "answer"}}
    )
    prompt = PromptBuilder(config, TOKENIZER).teacher(PROBLEM)
    assert "[answer begins]\n2\n" in prompt.text and "earlier solution" not in prompt.text


@pytest.mark.parametrize(
    ("reference", "shown"),
    [("solution", "s1"), ("answer", "a1"), ("hint", "h1"), ("sibling", "s1")],
)
def test_few_shot_examples_of_the_teacher_have_references_of_the_same_kind(
    reference: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Problem("e", "q1", "s1", "a1", "made", {"hint": "h1"})
    monkeypatch.setattr(few_shot, "_key", lambda config: "one example")
    monkeypatch.setitem(few_shot._known, "one example", (example,))
    shots = {"few_shot": {"examples": 1, "response": "It is {answer}."}}
    text = builder(reference, prompts=shots).teacher(PROBLEM, reference=Reference("r")).text
    example_turn = asked(text)
    assert "Problem: q1" in example_turn and f" begins]\n{shown}\n[" in example_turn


def test_the_columns_that_a_reference_names() -> None:
    assert columns_of("solution") == columns_of("answer") == columns_of("sibling") == ()
    assert columns_of("reward.hint") == ("reward.hint",)
    assert columns_of("H: {hint}\nR: {a rubric} {hint} {answer} {}") == ("hint", "a rubric")
    assert columns_of("{sibling}") == ("sibling",)


@pytest.mark.parametrize(
    ("teacher", "needed"),
    [
        ({}, True),
        ({"reference": "answer"}, False),
        ({"reference": "hint"}, False),
        ({"reference": "{hint} {solution}"}, True),
        ({"reference": "sibling"}, False),
        ({"reference": "sibling", "without_sibling": "solution"}, True),
        ({"reference": "answer", "without_sibling": "solution"}, False),
    ],
)
def test_only_a_reference_with_the_solution_needs_one(
    teacher: dict[str, Any], needed: bool
) -> None:
    assert reads_solutions(Config.model_validate({"teacher": teacher}).teacher) == needed


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"rollouts": {"per_question": 1}}, "rollouts.per_question is 1"),
        ({"teacher": {"reference": "sibling", "reason_first": True}}, "reason_first"),
        ({"teacher": {"reference": " "}}, "should be solution, answer, sibling"),
    ],
)
def test_config_of_a_reference_that_does_not_go_with_the_rest_is_refused(
    tree: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"teacher": {"reference": "sibling"}, **tree})
