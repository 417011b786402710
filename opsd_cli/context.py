"""Both roles' prompts for a problem, as a config words them; rendered once and kept."""

from __future__ import annotations

from opsd_cli.config import Config
from opsd_cli.errors import DataError
from opsd_cli.privileged import boundary_mismatch, match_boundary, teacher_prompt
from opsd_cli.problems import Problem
from opsd_cli.prompts import Prompt, Template, Tokenizer, student_prompt


class Contexts:
    """Renders student and teacher prompts, counting the references that had to be shortened.

    Where `prompts.teacher.max_tokens` is not set and the model's `context_limit` is known, teacher
    prompts are kept short enough for a full completion to follow.
    """

    def __init__(
        self, config: Config, tokenizer: Tokenizer, context_limit: int | None = None
    ) -> None:
        student, teacher = config.prompts.student, config.prompts.teacher
        self.tokenizer = tokenizer
        self._student = Template(student.template, student.system, student.chat_arguments)
        self._teacher = Template(teacher.template, teacher.system, teacher.chat_arguments)
        self._max_tokens = teacher.max_tokens
        if self._max_tokens is None and context_limit is not None:
            self._max_tokens = max(1, context_limit - config.sampling.max_new_tokens)
        self._match = config.prompts.boundary == "match"
        self._cache: dict[tuple[str, bool], Prompt] = {}
        self._shortened: set[str] = set()

    @property
    def shortened(self) -> int:
        """How many problems' references were shortened so far."""
        return len(self._shortened)

    def student(self, problem: Problem) -> Prompt:
        """What the student sees."""
        key = (problem.id, False)
        if key not in self._cache:
            self._cache[key] = student_prompt(problem.question, self._student, self.tokenizer)
        return self._cache[key]

    def teacher(self, problem: Problem) -> Prompt:
        """What the teacher sees; raises `DataError` for a problem without a reference."""
        key = (problem.id, True)
        if key not in self._cache:
            if problem.solution is None:
                raise DataError(
                    f"problem {problem.id!r} has no reference solution for the teacher",
                    "name its column with --set data.columns.solution=COLUMN, or give --solution",
                )
            prompt = teacher_prompt(
                problem.question, problem.solution, self._teacher, self.tokenizer, self._max_tokens
            )
            if prompt.shortened:
                self._shortened.add(problem.id)
            if self._match:
                prompt = match_boundary(self.student(problem), prompt, self.tokenizer)
            self._cache[key] = prompt
        return self._cache[key]

    def boundary_warning(self, problem: Problem) -> str | None:
        """One line where the two roles would open the answer differently, else None."""
        return boundary_mismatch(self.student(problem), self.teacher(problem))
