"""Both roles' prompts for a problem, as a config words them; rendered once and kept."""

from __future__ import annotations

from opsd_cli.config.schema import Config
from opsd_cli.errors import DataError
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Prompt, Template, Tokenizer, student_prompt
from opsd_cli.prompts.teacher import boundary_mismatch, match_boundary, teacher_prompt


class PromptBuilder:
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
        self._analyst = Template(teacher.analysis_template, teacher.system, student.chat_arguments)
        self._reason_first = config.teacher.reason_first
        self._analyses: dict[tuple[str, str], str] = {}
        self._new_analyses: list[tuple[tuple[str, str], str]] = []
        self._match = config.prompts.boundary == "match"
        self._cache: dict[tuple[tuple[str, str], bool], Prompt] = {}
        self._shortened: set[tuple[str, str]] = set()

    @property
    def shortened(self) -> int:
        """How many problems' references were shortened so far."""
        return len(self._shortened)

    def student(self, problem: Problem) -> Prompt:
        """What the student sees."""
        key = (problem.key, False)
        if key not in self._cache:
            self._cache[key] = student_prompt(problem.question, self._student, self.tokenizer)
        return self._cache[key]

    def teacher(self, problem: Problem) -> Prompt:
        """What the teacher sees; raises `DataError` for a problem without a reference.

        Where the teacher is to reason first, `opsd_cli.rollouts.teacher_analysis.analyse` comes
        before this.
        """
        key = (problem.key, True)
        if key not in self._cache:
            if self._reason_first and problem.key not in self._analyses:
                raise RuntimeError(f"the teacher has not analysed {problem.id!r} yet")
            prompt = teacher_prompt(
                problem.question,
                self._reference(problem),
                self._teacher,
                self.tokenizer,
                self._max_tokens,
                self._analyses.get(problem.key),
            )
            if prompt.shortened:
                self._shortened.add(problem.key)
            if self._match:
                prompt = match_boundary(self.student(problem), prompt, self.tokenizer)
            self._cache[key] = prompt
        return self._cache[key]

    def has_analysis(self, problem: Problem) -> bool:
        """Whether the teacher has written its analysis of this problem's solution."""
        return problem.key in self._analyses

    def take_analysis(self, problem: Problem, text: str) -> None:
        """Put the teacher's analysis into its prompt from now on, in place of any earlier one."""
        self._analyses[problem.key] = text
        self._new_analyses.append((problem.key, text))
        self._cache.pop((problem.key, True), None)

    def new_analyses(self) -> list[tuple[tuple[str, str], str]]:
        """The problems' keys and the analyses that came in since the last call."""
        found, self._new_analyses = self._new_analyses, []
        return found

    def analysis_request(self, problem: Problem) -> Prompt:
        """The prompt that asks for an analysis; raises as `teacher` does."""
        return teacher_prompt(
            problem.question,
            self._reference(problem),
            self._analyst,
            self.tokenizer,
            self._max_tokens,
        )

    def _reference(self, problem: Problem) -> str:
        if problem.solution is None:
            raise DataError(
                f"problem {problem.id!r} has no reference solution for the teacher",
                "name its column with --set data.columns.solution=COLUMN, or give --solution",
            )
        return problem.solution

    def boundary_warning(self, problem: Problem) -> str | None:
        """One line where the two roles would open the answer differently, else None."""
        return boundary_mismatch(self.student(problem), self.teacher(problem))
