"""Few-shot: worked examples in both roles' prompts, and never among the measured problems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, DataError
from opsd_cli.problems import Problem
from opsd_cli.problems.few_shot import examples_of, response_of
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder
from tests.support.small_tokenizers import CharacterTokenizer


def rows(numbers: range) -> str:
    return "".join(
        json.dumps({"question": f"{n} + 1", "solution": f"{n} + 1 = {n + 1}", "answer": f"{n + 1}"})
        + "\n"
        for n in numbers
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text(rows(range(60)))
    return path


def few(data: Path, *more: str) -> Config:
    return resolve(None, [f"data.train={data}", "prompts.few_shot.examples=3", *more])


class WithoutTemplate(CharacterTokenizer):
    """Renders the turns alone, as the tokenizer of a model without a chat template."""

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], generation_prompt: bool, **arguments: Any
    ) -> str:
        return "".join(f"{message['content']}\n\n" for message in messages)


def test_few_shot_examples_are_training_problems_that_are_not_trained_on(data: Path) -> None:
    splits, without = load_splits(few(data)), load_splits(resolve(None, [f"data.train={data}"]))
    examples = set(splits.few_shot)
    assert len(examples) == 3
    assert examples | set(splits.train.problems) == set(without.train.problems)
    assert not examples & set(splits.train.problems)
    assert splits.validation == without.validation and splits.test == without.test
    assert "3 left out, as they are few-shot examples" in splits.notes[-1]
    assert splits.provenance()["few_shot"]["problems"] == 3
    assert "few_shot" not in without.provenance()


def test_few_shot_examples_depend_on_their_own_seed_alone(data: Path) -> None:
    first = load_splits(few(data)).few_shot
    assert load_splits(few(data, "seed=7")).few_shot == first
    assert examples_of(few(data, "seed=7")) == first
    assert load_splits(few(data, "prompts.few_shot.seed=1")).few_shot != first


def test_few_shot_examples_of_a_file_are_its_first_problems(data: Path, tmp_path: Path) -> None:
    (tmp_path / "shots.jsonl").write_text(rows(range(100, 110)))
    splits = load_splits(few(data, f"prompts.few_shot.source={tmp_path / 'shots.jsonl'}"))
    assert [example.question for example in splits.few_shot] == ["100 + 1", "101 + 1", "102 + 1"]
    assert len(splits.train.problems) == 60 - 6 - 6


def test_few_shot_examples_among_the_held_out_problems_are_refused(
    data: Path, tmp_path: Path
) -> None:
    test = load_splits(few(data)).test.problems[0]
    row = {"question": test.question, "solution": test.solution, "answer": test.answer}
    (tmp_path / "shots.jsonl").write_text((json.dumps(row) + "\n") + rows(range(100, 110)))
    with pytest.raises(DataError, match=r"the few-shot examples and .* share 1 question:"):
        load_splits(few(data, f"prompts.few_shot.source={tmp_path / 'shots.jsonl'}"))


@pytest.mark.parametrize("count", [49, 48])
def test_few_shot_examples_leave_problems_to_train_on(data: Path, count: int) -> None:
    with pytest.raises(DataError, match=r"48 worked examples|every problem of"):
        load_splits(few(data, f"prompts.few_shot.examples={count}"))


def test_few_shot_examples_are_no_chats_of_several_turns(tmp_path: Path, data: Path) -> None:
    def row(name: str, turns: int) -> str:
        said = f"\\boxed{{{name}}}"
        turn = [{"role": "user", "content": f"{name}?"}, {"role": "assistant", "content": said}]
        return json.dumps({"messages": turn * turns}) + "\n"

    chats, mixed = tmp_path / "chats.jsonl", tmp_path / "mixed.jsonl"
    chats.write_text("".join(row(name, 2) for name in "1234"))
    mixed.write_text(chats.read_text() + "".join(row(name, 1) for name in "567"))
    # They are looked for beyond the first rows.
    found = examples_of(few(data, f"prompts.few_shot.source={mixed}"))
    assert [problem.answer for problem in found] == ["5", "6", "7"]
    with pytest.raises(DataError, match="4 of its 4 problems are chats of several turns"):
        examples_of(few(data, f"prompts.few_shot.source={chats}"))


def test_few_shot_prompts_hold_the_examples_as_turns_in_both_roles(data: Path) -> None:
    config = few(data, "prompts.student.system=be brief")
    splits = load_splits(config)
    builder = PromptBuilder(config, CharacterTokenizer())
    problem = splits.train.problems[0]
    student, teacher = builder.student(problem), builder.teacher(problem)
    plain = PromptBuilder(resolve(None, ["prompts.student.system=be brief"]), CharacterTokenizer())
    system = "<|im_start|>system\nbe brief<|im_end|>\n"
    templates = config.prompts
    shots = {
        role: "".join(
            "<|im_start|>user\n"
            + template.replace("{question}", e.question).replace("{solution}", e.solution or "")
            + f"<|im_end|>\n<|im_start|>assistant\n{e.solution}\n\\boxed{{{e.answer}}}<|im_end|>\n"
            for e in splits.few_shot
        )
        for role, template in (
            ("student", templates.student.template), ("teacher", templates.teacher.template),
        )
    }  # fmt: skip
    expected = plain.student(problem).text.replace(system, system + shots["student"])
    assert student.text == expected
    assert teacher.text == shots["teacher"] + plain.teacher(problem).text
    assert student.opening == plain.student(problem).opening
    assert len(student.ids) > len(plain.student(problem).ids)


def test_few_shot_prompts_without_a_chat_template_are_text(data: Path) -> None:
    config = few(data, "prompts.student.template=Q: {question}\nA:", "prompts.few_shot.examples=2")
    splits = load_splits(config)
    problem = splits.test.problems[0]
    prompt = PromptBuilder(config, WithoutTemplate()).student(problem)
    expected = "".join(
        f"Q: {e.question}\nA:\n\n{e.solution}\n\\boxed{{{e.answer}}}\n\n" for e in splits.few_shot
    )
    assert prompt.text == f"{expected}Q: {problem.question}\nA:\n\n"


def test_few_shot_prompt_of_an_example_does_not_hold_its_solution(data: Path) -> None:
    config = few(data)
    example = load_splits(config).few_shot[0]
    prompt = PromptBuilder(config, CharacterTokenizer()).student(example)
    assert example.solution not in prompt.text
    assert prompt.text.count("<|im_start|>user") == 3


def test_few_shot_examples_spell_no_control_tokens(tmp_path: Path, data: Path) -> None:
    row = {"question": "1?<|im_end|>", "solution": "<|im_end|>2", "answer": "2"}
    (tmp_path / "shots.jsonl").write_text((json.dumps(row) + "\n") * 1)
    config = few(
        data, f"prompts.few_shot.source={tmp_path / 'shots.jsonl'}", "prompts.few_shot.examples=1"
    )
    problem = load_splits(config).train.problems[0]
    text = PromptBuilder(config, CharacterTokenizer()).student(problem).text
    assert text.count("<|im_end|>") == 3


@pytest.mark.parametrize(
    ("solution", "answer", "template", "response"),
    [
        ("So it is 5 apples.", "5", None, "So it is 5 apples.\n\\boxed{5}"),
        ("So it is \\boxed{5}.", "5", None, "So it is \\boxed{5}."),
        ("2 + 3 = 5\n#### 5", "5", None, "2 + 3 = 5\n#### 5"),
        ("because", "5", "{solution} #### {answer}", "because #### 5"),
        (None, "5", "The answer is {answer}.", "The answer is 5."),
    ],
)
def test_few_shot_response_has_an_answer_that_the_grader_reads(
    solution: str | None, answer: str, template: str | None, response: str
) -> None:
    assert response_of(Problem("p", "q", solution, answer, "s"), template) == response


def test_few_shot_response_without_a_placeholder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"few_shot\.response must contain"):
        resolve(None, ["prompts.few_shot.response=yes"])
