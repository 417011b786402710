"""Both roles' prompts of one problem set, as a config words them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.problems import Problem
from opsd_cli.problems.few_shot import examples_of, response_of
from opsd_cli.problems.same_questions import divided
from opsd_cli.prompts.conversations import in_conversation
from opsd_cli.prompts.rendering import (
    Prompt,
    Template,
    Tokenizer,
    escape_control_tokens,
    student_prompt,
)
from opsd_cli.prompts.teacher import match_boundary, teacher_prompt


class PromptBuilder:
    """Renders a problem set's student and teacher prompts; each is rendered once and kept.

    Args:
        config: the prompt templates, the worked examples (`prompts.few_shot`), and
            `sampling.max_new_tokens`.
        tokenizer: of the model.
        context_limit: tokens of the model's context. Where it is known and
            `prompts.teacher.max_tokens` is not set, teacher prompts are kept short enough for a
            completion of `sampling.max_new_tokens` to follow.

    Raises:
        DataError: the worked examples cannot be read.
    """

    def __init__(
        self, config: Config, tokenizer: Tokenizer, context_limit: int | None = None
    ) -> None:
        student, teacher = config.prompts.student, config.prompts.teacher
        self.tokenizer = tokenizer
        self._student = Template(student.template, student.system, student.chat_arguments)
        self._teacher = Template(teacher.template, teacher.system, teacher.chat_arguments)
        if teacher.place == "system":
            self._teacher = replace(
                self._teacher, text=student.template, reference=teacher.system_template
            )
        self._analyst = Template(teacher.analysis_template, teacher.system, student.chat_arguments)
        self._max_tokens = teacher.max_tokens
        if self._max_tokens is None and context_limit is not None:
            self._max_tokens = max(1, context_limit - config.sampling.max_new_tokens)
        self._match_boundary = config.prompts.boundary == "match"
        self._examples = examples_of(config)
        self._response = config.prompts.few_shot.response
        self._student_prompts: dict[tuple[str, str], Prompt] = {}
        #: The newest teacher prompt of each problem, and the analysis it was rendered with.
        self._teacher_prompts: dict[tuple[str, str], tuple[str | None, Prompt]] = {}
        self._shortened: set[tuple[str, str]] = set()

    @property
    def shortened(self) -> int:
        """Number of problems whose reference solution was shortened so far."""
        return len(self._shortened)

    def student(self, problem: Problem) -> Prompt:
        """The student's prompt: the question alone."""
        if problem.key not in self._student_prompts:
            template = self._with_examples(self._student, problem)
            self._student_prompts[problem.key] = student_prompt(
                problem.last_turn, template, self.tokenizer
            )
        return self._student_prompts[problem.key]

    def teacher(self, problem: Problem, analysis: str | None = None) -> Prompt:
        """The teacher's prompt: the question and its reference solution.

        Args:
            analysis: what the teacher wrote about the solution beforehand, where it reasons first
                (`opsd_cli.rollouts.teacher_analysis`).

        Raises:
            DataError: the problem has no reference solution, or the question and the instructions
                alone exceed the room for the prompt.
        """
        known = self._teacher_prompts.get(problem.key)
        if known is not None and known[0] == analysis:
            return known[1]
        prompt = teacher_prompt(
            problem.last_turn,
            _reference(problem),
            self._with_examples(self._teacher, problem),
            self.tokenizer,
            self._max_tokens,
            analysis,
        )
        if prompt.shortened:
            self._shortened.add(problem.key)
        if self._match_boundary:
            prompt = match_boundary(self.student(problem), prompt, self.tokenizer)
        self._teacher_prompts[problem.key] = (analysis, prompt)
        return prompt

    def analysis_request(self, problem: Problem) -> Prompt:
        """The prompt that asks the teacher for its analysis; raises `DataError` as `teacher`."""
        return teacher_prompt(
            problem.last_turn,
            _reference(problem),
            in_conversation(self._analyst, problem, self.tokenizer),
            self.tokenizer,
            self._max_tokens,
        )

    def _with_examples(self, template: Template, problem: Problem) -> Template:
        """The template in the problem's conversation, worked examples in the same words before it.

        So the teacher's examples have their reference solutions and show how one is used. A problem
        that is itself an example is not shown its own solution.
        """
        others, _ = divided(self._examples, [problem])
        with_solutions = template is self._teacher
        turns = example_turns(others, template, self._response, self.tokenizer, with_solutions)
        template = in_conversation(template, problem, self.tokenizer)
        return replace(template, examples=turns) if turns else template


def example_turns(
    examples: Sequence[Problem],
    template: Template,
    response: str | None,
    tokenizer: Tokenizer | None,
    with_solutions: bool = False,
) -> tuple[tuple[str, str], ...]:
    """Question and answer of each worked example, as `Template.examples` takes them.

    Args:
        template: the role's, which asks the examples too.
        response: `prompts.few_shot.response`.
        tokenizer: whose control tokens are escaped; None escapes nothing.
        with_solutions: whether the template has a place for the reference solution.
    """

    def escaped(text: str) -> str:
        return text if tokenizer is None else escape_control_tokens(text, tokenizer)

    turns = []
    for example in examples:
        values = {"question": escaped(example.question)}
        if with_solutions:
            values["solution"] = escaped(example.solution or example.answer or "")
        turns.append((template.fill(**values), escaped(response_of(example, response))))
    return tuple(turns)


def _reference(problem: Problem) -> str:
    if problem.solution is None:
        raise DataError(
            f"problem {problem.id!r} has no reference solution for the teacher",
            "name its column with --set data.columns.solution=COLUMN, or give --solution",
        )
    return problem.solution
