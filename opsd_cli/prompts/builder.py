"""Both roles' prompts of one problem set, as a config words them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from opsd_cli.config.schema import Config
from opsd_cli.config.teacher_section import Teacher
from opsd_cli.errors import DataError
from opsd_cli.problems import Problem
from opsd_cli.problems.few_shot import examples_of, response_of
from opsd_cli.problems.same_questions import divided
from opsd_cli.prompts.conversations import in_conversation
from opsd_cli.prompts.other_model import OtherModel, other_model
from opsd_cli.prompts.references import (
    WORDS,
    Kind,
    Reference,
    example_reference,
    missing_reference,
    reference_of,
)
from opsd_cli.prompts.rendering import (
    Prompt,
    Template,
    Tokenizer,
    escape_control_tokens,
    student_prompt,
)
from opsd_cli.prompts.teacher import (
    ANALYSIS_TEMPLATE,
    TEACHER_TEMPLATE,
    match_boundary,
    teacher_prompt,
)


class PromptBuilder:
    """Renders a problem set's student and teacher prompts; each is rendered once and kept.

    Args:
        config: the prompt templates, the worked examples (`prompts.few_shot`), the teacher's
            reference, and `sampling.max_new_tokens`.
        tokenizer: of the model. With `teacher.model` the teacher's prompts are rendered by that
            model's own, which is loaded with the first of them.
        context_limit: tokens of the model's context. Where the teacher's is known and
            `prompts.teacher.max_tokens` is not set, teacher prompts are kept short enough for a
            completion of `sampling.max_new_tokens` to follow.

    Raises:
        DataError: the worked examples cannot be read.
    """

    def __init__(
        self, config: Config, tokenizer: Tokenizer, context_limit: int | None = None
    ) -> None:
        student = config.prompts.student
        self.tokenizer = tokenizer
        self._config = config
        self._student = Template(student.template, student.system, student.chat_arguments)
        self._context_limit = context_limit
        self._match_boundary = config.prompts.boundary == "match"
        self._examples = examples_of(config)
        self._response = config.prompts.few_shot.response
        self._student_prompts: dict[tuple[str, str], Prompt] = {}
        #: The newest teacher prompt of each problem, and what it was rendered with.
        self._teacher_prompts: dict[
            tuple[str, str], tuple[tuple[str | None, Reference | None], Prompt]
        ] = {}
        self._shortened: set[tuple[str, str]] = set()

    @property
    def shortened(self) -> int:
        """Number of problems whose reference was shortened so far."""
        return len(self._shortened)

    @cached_property
    def _teacher(self) -> OtherModel:
        """The model that reads the teacher's prompts: `teacher.model`, or the student's own."""
        return other_model(self._config) or OtherModel(self.tokenizer, self._context_limit)

    @property
    def _max_tokens(self) -> int | None:
        """Most tokens of a teacher's prompt; None for any number."""
        if self._config.prompts.teacher.max_tokens is not None:
            return self._config.prompts.teacher.max_tokens
        limit = self._teacher.context_limit
        return None if limit is None else max(1, limit - self._config.sampling.max_new_tokens)

    def student(self, problem: Problem) -> Prompt:
        """The student's prompt: the question alone."""
        if problem.key not in self._student_prompts:
            self._student_prompts[problem.key] = self._without_reference(problem, self.tokenizer)
        return self._student_prompts[problem.key]

    def reference(self, problem: Problem) -> Reference | None:
        """The reference that a problem has whatever its rollouts are; None if it has none."""
        return reference_of(problem, self._config.teacher)

    def teacher(
        self, problem: Problem, analysis: str | None = None, reference: Reference | None = None
    ) -> Prompt:
        """The teacher's prompt: the question and the reference.

        Args:
            analysis: what the teacher wrote about the reference beforehand, where it reasons first
                (`opsd_cli.rollouts.teacher_analysis`).
            reference: that of one rollout; by default the problem's own.

        Raises:
            DataError: the problem has no reference, or the question and the instructions alone
                exceed the room for the prompt.
        """
        known = self._teacher_prompts.get(problem.key)
        if known is not None and known[0] == (analysis, reference):
            return known[1]
        own, tokenizer = reference or self._required(problem), self._teacher.tokenizer
        if own.kind == "none":
            prompt = self._without_reference(problem, tokenizer)
        else:
            template = self._teacher_template(own.kind)
            prompt = teacher_prompt(
                problem.last_turn,
                own.text,
                self._with_examples(template, problem, tokenizer, teacher=True),
                tokenizer,
                self._max_tokens,
                analysis,
            )
        if prompt.shortened:
            self._shortened.add(problem.key)
        if self._match_boundary:
            prompt = match_boundary(self.student(problem), prompt, tokenizer)
        self._teacher_prompts[problem.key] = ((analysis, reference), prompt)
        return prompt

    def analysis_request(self, problem: Problem) -> Prompt:
        """The prompt that asks the teacher for its analysis; raises `DataError` as `teacher`."""
        reference = self._required(problem)
        teacher = self._config.prompts.teacher
        text = teacher.analysis_template
        if text == ANALYSIS_TEMPLATE:
            text = WORDS[reference.kind][1]
        arguments = self._config.prompts.student.chat_arguments
        tokenizer = self._teacher.tokenizer
        return teacher_prompt(
            problem.last_turn,
            reference.text,
            in_conversation(Template(text, teacher.system, arguments), problem, tokenizer),
            tokenizer,
            self._max_tokens,
        )

    def _without_reference(self, problem: Problem, tokenizer: Tokenizer) -> Prompt:
        """The student's prompt, rendered by a tokenizer: its own, or that of `teacher.model`."""
        template = self._with_examples(self._student, problem, tokenizer, teacher=False)
        return student_prompt(problem.last_turn, template, tokenizer)

    def _required(self, problem: Problem) -> Reference:
        found = self.reference(problem)
        if found is None:
            raise DataError(*missing_reference(problem, self._config.teacher))
        return found

    def _teacher_template(self, kind: Kind) -> Template:
        """The config's template; in place of the default one, that with the reference's words."""
        student, teacher = self._config.prompts.student, self._config.prompts.teacher
        if teacher.place == "system":
            return Template(
                student.template,
                teacher.system,
                teacher.chat_arguments,
                reference=teacher.system_template,
            )
        text = WORDS[kind][0] if teacher.template == TEACHER_TEMPLATE else teacher.template
        return Template(text, teacher.system, teacher.chat_arguments)

    def _with_examples(
        self, template: Template, problem: Problem, tokenizer: Tokenizer, *, teacher: bool
    ) -> Template:
        """The template in the problem's conversation, worked examples in the same words before it.

        So the teacher's examples have their references and show how one is used. A problem that is
        itself an example is not shown its own solution.
        """
        others, _ = divided(self._examples, [problem])
        section = self._config.teacher if teacher else None
        turns: tuple[tuple[str, str], ...] = ()
        for example in others:
            # An example's reference is seldom of the prompt's kind where rollouts have their own.
            shown = (
                self._teacher_template(example_reference(example, section).kind)
                if section
                else template
            )
            turns += example_turns([example], shown, self._response, tokenizer, section)
        template = in_conversation(template, problem, tokenizer)
        return replace(template, examples=turns) if turns else template


def example_turns(
    examples: Sequence[Problem],
    template: Template,
    response: str | None,
    tokenizer: Tokenizer | None,
    teacher: Teacher | None = None,
) -> tuple[tuple[str, str], ...]:
    """Question and answer of each worked example, as `Template.examples` takes them.

    Args:
        template: the role's, which asks the examples too.
        response: `prompts.few_shot.response`.
        tokenizer: whose control tokens are escaped; None escapes nothing.
        teacher: where the template is the teacher's, and has a place for the reference.
    """

    def escaped(text: str) -> str:
        return text if tokenizer is None else escape_control_tokens(text, tokenizer)

    turns = []
    for example in examples:
        values = {"question": escaped(example.question)}
        if teacher is not None:
            values["solution"] = escaped(example_reference(example, teacher).text)
        turns.append((template.fill(**values), escaped(response_of(example, response))))
    return tuple(turns)
