"""Completions of single questions, with per-token divergence, for people to read: `opsd sample`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.interface import DivergenceBatch, DivergenceItem, RolloutRequest
from opsd_cli.config.schema import Config
from opsd_cli.errors import UsageError
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.recommended_sampling import with_recommended
from opsd_cli.evaluation.samples import judged
from opsd_cli.grading import Grade, Grader, Item
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.fields import fields_of, required_fields
from opsd_cli.problems.files import load_file
from opsd_cli.problems.graded_columns import read_for
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import reads_solutions
from opsd_cli.prompts.rendering import Prompt, completion_text
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst, TeacherPrompts
from opsd_cli.rollouts.types import training_sampling
from opsd_cli.rollouts.watching import Unfinished, watched
from opsd_cli.seeds import derive_seed
from opsd_cli.tracking.listener import Listener, Messages

if TYPE_CHECKING:
    from backends.interface import Policy, Rollout, TeacherWeights, TokenReport


SPLITS = ("train", "validation", "test")
#: How `opsd sample` samples: as `opsd eval` does, or as training does.
SAMPLINGS = ("evaluation", "training")


@dataclass(frozen=True)
class Completion:
    """One completion of a problem.

    Attributes:
        text: without its stop token.
        grade: None for a problem without what the grader reads, such as an answer.
        report: per-token divergence and entropies; None unless asked for.
    """

    problem: Problem
    rollout: Rollout
    text: str
    grade: Grade | None
    report: TokenReport | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry of `opsd sample --json`, without its divergence."""
        return {
            "problem_id": self.problem.id,
            "sample_index": self.rollout.request.sample_index,
            "completion": self.text,
            "tokens": len(self.rollout.completion_ids),
            "finish_reason": self.rollout.finish_reason,
            "status": self.grade.status if self.grade else None,
            **self._judged(),
        }

    def _judged(self) -> dict[str, Any]:
        grade = self.grade
        return judged(grade.score if grade.numeric else None, grade.feedback) if grade else {}


def problems_to_inspect(
    config: Config,
    split: str,
    file: Path | None = None,
    *,
    need_reference: bool = False,
    limit: int | None = None,
) -> ProblemSet:
    """The problems of one of the config's splits, or of a file.

    Args:
        split: one of `SPLITS`, where no file is given.
        need_reference: leave out a file's problems that lack what the teacher's reference is made
            of.
        limit: read no more than so many of a file; a split is given whole.

    Raises:
        UsageError: there is no such split.
        DataError: the problems cannot be read.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", f"choose from {', '.join(SPLITS)}")
    if file is None:
        splits = load_splits(config)
        return {"train": splits.train, "validation": splits.validation, "test": splits.test}[split]
    columns = {k: v for k, v in config.data.columns.model_dump().items() if v}
    return load_file(
        file,
        columns,
        need_solution=need_reference and reads_solutions(config.teacher),
        need_answer=False,
        limit=limit,
        selection=read_for(config),
        fields=fields_of(config, "train" if need_reference else "test"),
        required=required_fields(config, "train" if need_reference else "test"),
    )


def teacher_prompts(
    policy: Policy,
    problems: Sequence[Problem],
    prompts: PromptBuilder,
    config: Config,
    listener: Listener | None = None,
) -> TeacherPrompts:
    """The teacher's prompts of those problems that have a reference.

    If the teacher reasons first, its analyses are sampled too.
    """
    analyst = TeacherAnalyst(config, policy, prompts, listener=listener)
    return analyst.prompts([problem for problem in problems if prompts.reference(problem)])


def prompts_of_roles(
    problem: Problem, prompts: PromptBuilder, teacher: TeacherPrompts
) -> dict[str, Prompt]:
    """The student's prompt, and the teacher's if the problem has a reference."""
    roles = {"student": prompts.student(problem)}
    if prompts.reference(problem) is not None:
        roles["teacher"] = teacher.of(problem)
    return roles


def sampled_as(config: Config, how: str, messages: Messages) -> Config:
    """The config whose `sampling` section is that of evaluations, or of training.

    Args:
        how: one of `SAMPLINGS`.

    Raises:
        UsageError: it is none of them.
        ConfigError, ModelError: as `with_recommended`.
    """
    if how not in SAMPLINGS:
        raise UsageError(f"there is no sampling {how!r}", f"choose from {', '.join(SAMPLINGS)}")
    if how == "training":
        return config
    config, _ = with_recommended(config, messages)
    section = config.sampling.model_copy(update=asdict(evaluation_sampling(config)))
    return config.model_copy(update={"sampling": section})


def draw(
    policy: Policy,
    problems: Sequence[Problem],
    prompt_of: Callable[[Problem], Prompt],
    config: Config,
    n: int,
    listener: Listener | None = None,
    on_unfinished: Callable[[Unfinished], None] | None = None,
    teacher: TeacherWeights | None = None,
) -> list[Rollout]:
    """Sample n completions of every problem with the config's `sampling`, by sample index.

    Args:
        prompt_of: the prompt of a problem: `PromptBuilder.student`, or `TeacherPrompts.of`.
        listener: receives the phase and its progress.
        on_unfinished: called a few times a second with the completions that are being decoded.
        teacher: sample with these weights of the teacher; None samples with the student's.
    """
    requests = [
        RolloutRequest(
            problem.id, index, prompt_of(problem).ids,
            derive_seed(config.seed, "sample", *problem.key, index),
        )
        for problem in problems
        for index in range(n)
    ]  # fmt: skip
    sampling, listener = training_sampling(config), listener or Listener()
    listener.phase("sampling", len(requests))
    rollouts = (
        policy.generate(requests, sampling)
        if teacher is None
        else policy.generate(requests, sampling, "teacher", teacher)
    )
    drawn = []
    for rollout in watched(rollouts, requests, sampling, policy, listener, on_unfinished):
        drawn.append(rollout)
        listener.advance()
    return sorted(drawn, key=lambda rollout: rollout.request.sample_index)


def can_be_graded(problem: Problem, grader: Grader) -> bool:
    """True if a problem, which may have been typed, has what a grader reads."""
    traits = grader.traits
    there = problem.answer is not None or not traits.needs_answer
    return traits.grades and there and (problem.fields.keys() >= set(traits.columns))


def completions_of(
    problem: Problem,
    rollouts: Sequence[Rollout],
    policy: Policy,
    grader: Grader,
    reports: Sequence[TokenReport] = (),
    stop: Sequence[str] = (),
) -> list[Completion]:
    """A problem's rollouts as graded text.

    Args:
        rollouts: this problem's.
        reports: one per rollout, as `token_divergences` gives them; empty for none.
        stop: the stop strings they were sampled with.
    """
    texts = [
        completion_text(rollout.completion_ids, policy.tokenizer, policy.stop_ids, stop)
        for rollout in rollouts
    ]
    grades: Sequence[Grade | None] = [None] * len(texts)
    if can_be_graded(problem, grader):
        grades = grader.grade([Item(problem, text) for text in texts])
    measured: Sequence[TokenReport | None] = reports or [None] * len(texts)
    return [
        Completion(problem, *parts) for parts in zip(rollouts, texts, grades, measured, strict=True)
    ]


def token_divergences(
    problem: Problem,
    rollouts: Sequence[Rollout],
    policy: Policy,
    prompts: PromptBuilder,
    teacher: TeacherPrompts,
    config: Config,
) -> tuple[TokenReport, ...]:
    """Per-token divergence between teacher and student, in nats, one report per rollout."""
    items = tuple(
        DivergenceItem(
            prompts.student(problem).ids, teacher.of(problem).ids, rollout.completion_ids
        )
        for rollout in rollouts
    )
    weights = model_or_live(config)
    return policy.measure(DivergenceBatch(items, config.divergence.spec(), weights)).tokens


def model_or_live(config: Config) -> TeacherWeights:
    """Whose weights the teacher of `opsd sample` has: `teacher.model`'s, or the student's own."""
    return "live" if config.teacher.model is None else "model"


def divergence_entry(
    completion: Completion, prompts: PromptBuilder, config: Config
) -> dict[str, Any]:
    """A completion's `divergence` in `opsd sample --json`: nats, token by token."""
    report = completion.report
    assert report is not None
    ids = completion.rollout.completion_ids
    values = [float(value) for value in report.value]
    return {
        "kind": config.divergence.kind,
        "spec": asdict(config.divergence.spec()),
        "mean": sum(values) / len(values) if values else 0.0,
        "tokens": [
            {
                "text": prompts.tokenizer.decode([token]),
                "id": token,
                "value": value,
                "student_entropy": float(student),
                "teacher_entropy": float(teacher),
            }
            for token, value, student, teacher in zip(
                ids, values, report.student_entropy, report.teacher_entropy, strict=True
            )
        ],
    }
