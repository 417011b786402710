"""What a model's small files say about a first run: sizes, tokenizer, chat template, lengths.

No weights are read. Where the tokenizer of a hub model cannot be had, lengths are estimated from
the texts, and what depends on the template stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nlargest

from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelNotAtHand
from opsd_cli.planning.memory_plan import estimated, estimated_tokens
from opsd_cli.planning.model_shape import Shape, configured_shape
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import OF_ONE_ROLLOUT
from opsd_cli.prompts.rendering import Tokenizer, has_thinking_mode
from opsd_cli.prompts.teacher import boundary_mismatch

#: Solutions that are tokenised, spread over the set, and prompts that are rendered, the longest.
_SOLUTIONS, _PROMPTS = 1000, 16


@dataclass(frozen=True)
class ModelReading:
    """A model without its weights.

    Attributes:
        shape: None for an architecture that memory plans do not know, or a model not at hand.
        context: most tokens of prompt and completion; None if the model does not say.
        tokenizer: None if it is not at hand.
        has_template: True if there is a chat template; None if that is unknown.
        thinks: True if the template depends on `enable_thinking`; None if that is unknown.
        missing: why the tokenizer is not at hand, one line.
    """

    shape: Shape | None = None
    context: int | None = None
    tokenizer: Tokenizer | None = None
    has_template: bool | None = None
    thinks: bool | None = None
    missing: str = ""


@dataclass(frozen=True)
class TextLengths:
    """Lengths of a problem set's texts, in tokens.

    Attributes:
        tokenised: True if counted with the model's tokenizer, false if estimated.
        most_solutions: 95% of the reference solutions are not longer; 0 if there are none.
        student, teacher: longest prompt of either role.
    """

    tokenised: bool
    most_solutions: int
    student: int
    teacher: int

    @property
    def how(self) -> str:
        """How the lengths were found, in a word."""
        return "tokenised" if self.tokenised else "estimated from the characters"

    @property
    def sentence(self) -> str:
        """All of it, for people."""
        solutions = f"solutions of at most {self.most_solutions} tokens (95%), "
        return (
            f"lengths, {self.how}: {solutions if self.most_solutions else ''}"
            f"prompts of {self.student} (student) and {self.teacher} (teacher)"
        )

    def as_dict(self) -> dict[str, int | bool]:
        """As `opsd init --json` has it."""
        return {
            "tokenised": self.tokenised,
            "solutions_95_percent": self.most_solutions,
            "student_prompt": self.student,
            "teacher_prompt": self.teacher,
        }


def read_model(config: Config) -> ModelReading:
    """Read a model's config.json, tokenizer and chat template.

    Raises:
        ModelError: there is no such model, or one of these files cannot be used.
    """
    from backends.shared.model_files import load_tokenizer, read_settings
    from backends.shared.tokenizer import HuggingFaceTokenizer, tokenizer_folder

    shape: Shape | None = None
    try:
        shape = configured_shape(config)
        settings = read_settings(config.model_path, config.revision)
        wrapped = load_tokenizer(tokenizer_folder(config), config)
    except ModelNotAtHand as error:
        return ModelReading(shape=shape, missing=error.message)
    settings = {**settings, **(settings.get("text_config") or {})}
    context = settings.get("max_position_embeddings")
    tokenizer = HuggingFaceTokenizer(wrapped)
    return ModelReading(
        shape=shape,
        context=context if isinstance(context, int) and context > 0 else None,
        tokenizer=tokenizer,
        has_template=bool(wrapped.chat_template),
        thinks=has_thinking_mode(tokenizer),
    )


def text_lengths(reading: ModelReading, config: Config, problems: Sequence[Problem]) -> TextLengths:
    """Lengths of solutions and prompts, tokenised where the tokenizer is at hand.

    Args:
        config: the prompt templates.
        problems: not empty.

    Raises:
        ConfigError: the chat template refuses the prompts.
    """
    spread = problems[:: -(-len(problems) // _SOLUTIONS)]
    solutions = [problem.solution or "" for problem in spread]
    tokenizer = reading.tokenizer
    if tokenizer is None:
        prompts = estimated(config, problems)
        most = _most([estimated_tokens(text) for text in solutions])
        return TextLengths(False, most, prompts.student, prompts.teacher)
    builder = PromptBuilder(config, tokenizer)

    def longest(characters: Callable[[Problem], int]) -> list[Problem]:
        return nlargest(_PROMPTS, problems, key=characters)

    student = [len(builder.student(p).ids) for p in longest(lambda p: p.characters)]

    taught = longest(lambda p: teacher_characters(p, builder))
    teacher = [len(builder.teacher(p).ids) for p in taught if builder.reference(p)]
    if config.teacher.reference in OF_ONE_ROLLOUT:  # none of them is there yet
        teacher.append(estimated(config, problems).teacher)
    most = _most([len(tokenizer.encode(text)) for text in solutions])
    return TextLengths(True, most, max(student), max(teacher, default=max(student)))


def teacher_characters(problem: Problem, builder: PromptBuilder) -> int:
    """Characters of a question and its reference."""
    reference = builder.reference(problem)
    return problem.characters + len(reference.text if reference else "")


def boundary_differs(reading: ModelReading, config: Config, problem: Problem) -> bool | None:
    """True if student's and teacher's prompts end differently; None if that is unknown."""
    if reading.tokenizer is None:
        return None
    builder = PromptBuilder(config, reading.tokenizer)
    if builder.reference(problem) is None:
        return None
    return boundary_mismatch(builder.student(problem), builder.teacher(problem)) is not None


def _most(lengths: Sequence[int]) -> int:
    """The 95th percentile."""
    return sorted(lengths)[min(len(lengths) - 1, int(0.95 * len(lengths)))]
