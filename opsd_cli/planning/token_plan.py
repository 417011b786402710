"""Upper bounds of a run's tokens, by kind, from its config alone: what `--dry-run` shows.

The kinds are the ledger's (`opsd_cli.token_ledger`), and each number is a bound that no run exceeds
that is not interrupted: every completion of maximum length, every zero-variance group resampled,
every validation made, and a preflight whose teacher scores attempts. A run that was stopped may
spend more, on steps that it had not saved.

Tokens generated and evaluated follow from the config. Tokens read (`prompt`, `teacher_scored`,
`trained`, `scored`) depend on the prompts too, whose greatest lengths are an argument: exact where
they are known, and estimated where the model's tokenizer is not at hand: a plan downloads none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends.rollout_engines import get_engine
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.grading import grades
from opsd_cli.methods.base import RunSizes
from opsd_cli.planning import memory_plan
from opsd_cli.planning.before_step_1 import (
    RolloutsBeforeStep1,
    before_step_1,
    preflight_attempts,
    preflight_rollouts,
)
from opsd_cli.planning.prompt_lengths import prompt_lengths
from opsd_cli.problems import Problem
from opsd_cli.problems.sources import Splits
from opsd_cli.rollouts.importance import COMPARED_ROLLOUTS
from opsd_cli.token_ledger import TokenLedger


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest prompt of either role, and of the longest reference solution."""

    student: int
    teacher: int
    reference: int


@dataclass(frozen=True)
class TokenPlan:
    """Upper bounds of what a run spends.

    Attributes:
        problems: problems of each split; None for training problems that are not available.
        lengths: prompt lengths, in tokens, that the bounds are computed with.
        updates: optimiser updates.
        most: the bound of each kind of token.
        evaluation_rollouts: completions of preflight, validation and test.
        first: those of them that precede the first step.
    """

    problems: dict[str, int | None]
    lengths: Lengths
    updates: int
    most: TokenLedger
    evaluation_rollouts: int
    first: RolloutsBeforeStep1

    def as_dict(self) -> dict[str, Any]:
        """As `--dry-run --json` has it."""
        most = self.most
        return {
            "problems": self.problems,
            "updates": self.updates,
            "rollouts": most.rollouts,
            "generated_tokens_at_most": most.generated,
            "teacher_scored_tokens_at_most": most.teacher_scored,
            "trained_tokens_at_most": most.trained,
            "scored_tokens_at_most": most.scored,
            "prompt_tokens_at_most": most.prompt,
            "evaluation_rollouts_at_most": self.evaluation_rollouts,
            "rollouts_before_step_1": self.first.total,
            "rollouts_before_step_1_at_most": self.first.most,
            "evaluation_tokens_at_most": most.evaluation,
            "for_prompts_of": {
                "student": self.lengths.student,
                "teacher": self.lengths.teacher,
                "reference": self.lengths.reference,
            },
        }


def planned_lengths(config: Config, problems: Sequence[Problem]) -> Lengths:
    """Prompt lengths as `prompt_lengths` gives them; those of reference solutions are estimated."""
    prompts = prompt_lengths(config, problems)
    return Lengths(
        prompts.student, prompts.teacher, memory_plan.estimated_reference(config, problems)
    )


def token_plan(config: Config, splits: Splits | None, lengths: Lengths | None = None) -> TokenPlan:
    """Upper bounds of the tokens that a run of this config spends.

    Args:
        splits: its problems; without them, as many for validation and test as the config allows.
        lengths: of its prompts; by default as `planned_lengths` gives them.
    """
    sizes: dict[str, int | None] = {
        "train": None,
        "validation": config.data.validation_problems,
        "test": config.data.test_problems,
    }
    if config.data.watch is not None:
        sizes["watch"] = config.data.watch_problems
    if splits is not None:
        sizes = {split: len(each.problems) for split, each in splits.named().items()}
    if lengths is None:
        lengths = planned_lengths(config, _problems_read(config, splits))
    return plan_of_sizes(config, sizes, lengths)


def plan_of_sizes(config: Config, sizes: dict[str, int | None], lengths: Lengths) -> TokenPlan:
    """As `token_plan`, from the number of problems of each split."""
    evaluations = _evaluation_rollouts(config, sizes)
    longest = config.evaluation.max_new_tokens or config.sampling.max_new_tokens
    measured = _Measured.of(config, sizes, evaluations)
    most = _learning(config, sizes["train"], lengths, measured) + measured.read(config, lengths)
    # Where the teacher does not answer better, it scores attempts that are sampled as rollouts are.
    attempts, rollout = preflight_attempts(config, sizes["train"]), config.sampling.max_new_tokens
    most += TokenLedger(
        evaluation=attempts * rollout,
        teacher_scored=attempts * (_teacher_prompt(config, lengths) + rollout),
        scored=attempts * (lengths.student + rollout),
    )
    return TokenPlan(
        problems=sizes,
        lengths=lengths,
        updates=config.train.steps * methods.get(config).updates_per_step(),
        most=most + TokenLedger(evaluation=evaluations * longest),
        evaluation_rollouts=evaluations + attempts,
        first=before_step_1(config, sizes),
    )


def _evaluation_rollouts(config: Config, sizes: dict[str, int | None]) -> int:
    """Completions of preflight, validation and test, without early stopping."""
    train = config.train
    due = -(-train.steps // train.evaluate_every)
    # Base, and with a curve every validation's step, the last among them; else the last and best.
    tests = 1 + (due if train.curve else min(2, due))
    problems = due * (sizes["validation"] or 0) + (tests - 1) * (sizes["test"] or 0)
    problems += min(2, due) * (sizes.get("watch") or 0)  # the last and the best step
    before = before_step_1(config, sizes).total
    if train.test_at_end:  # that of the untrained model among them
        problems += sizes["test"] or 0
    return before + config.evaluation.samples * problems


def _problems_read(config: Config, splits: Splits | None) -> Sequence[Problem]:
    """The problems whose prompts are read: where nothing is graded, those of every split."""
    if splits is None:
        return []
    read = [splits.train] if grades(config.grading) else splits.named().values()
    return [problem for each in read for problem in each.problems]


@dataclass(frozen=True)
class _Measured:
    """What is read for the measures of a run in which nothing is graded, at most.

    Attributes:
        completions: of all evaluations, the preflight's student among them.
        problems: whose solutions are read under the student's prompt, each as often as measured.
        preflight: those of them that are read under the teacher's prompt too.
    """

    completions: int = 0
    problems: int = 0
    preflight: int = 0

    @classmethod
    def of(cls, config: Config, sizes: dict[str, int | None], evaluations: int) -> _Measured:
        """Nothing for a run whose completions are graded."""
        if grades(config.grading):
            return cls()
        samples = config.evaluation.samples
        preflight = preflight_rollouts(config, sizes["train"]) // samples
        return cls(evaluations, evaluations // samples, preflight)

    def read(self, config: Config, lengths: Lengths) -> TokenLedger:
        """The tokens read, by kind."""
        longest = config.evaluation.max_new_tokens or config.sampling.max_new_tokens
        teacher = _teacher_prompt(config, lengths)
        taught = methods.get(config).needs.teacher
        scored = self.completions * (lengths.student + longest) * taught
        return TokenLedger(
            scored=scored + self.problems * (lengths.student + lengths.reference),
            teacher_scored=self.completions * (teacher + longest) * taught
            + self.preflight * (teacher + lengths.reference),
        )


def _teacher_prompt(config: Config, lengths: Lengths) -> int:
    """Tokens of the longest teacher prompt, an analysis of its own included."""
    if not config.teacher.reason_first:
        return lengths.teacher
    teacher = lengths.teacher + config.teacher.analysis_tokens
    return min(teacher, config.prompts.teacher.max_tokens or teacher)


def _learning(
    config: Config, available: int | None, lengths: Lengths, measured: _Measured
) -> TokenLedger:
    """Tokens of the steps, and of the analyses of a teacher that reasons first."""
    train, method = config.train, methods.get(config)
    analyses = _analyses(config, available, measured)
    teacher = _teacher_prompt(config, lengths)
    kept = train.steps * train.questions_per_step * method.rollouts_per_question()
    replacements = method.resampling_rounds() * train.questions_per_step
    if available is not None:  # a step uses no question twice
        replacements = min(replacements, available)
    drawn = kept + train.steps * replacements * method.rollouts_per_question()
    longest = config.sampling.max_new_tokens
    spent = TokenLedger(
        rollouts=drawn,
        generated=drawn * longest + analyses * config.teacher.analysis_tokens,
        prompt=drawn * lengths.student + analyses * teacher,
    )
    if get_engine(config.rollouts.engine).separate_from_trainer:
        compared = kept
        if config.rollouts.importance_cap is None:
            compared = min(kept, train.steps * COMPARED_ROLLOUTS)
        spent += TokenLedger(scored=compared * (lengths.student + longest))
    return spent + method.tokens_read(
        RunSizes(
            rollouts=kept,
            student_sequence=lengths.student + longest,
            teacher_sequence=teacher + longest,
            student_prompt=lengths.student,
            reference=lengths.reference,
        )
    )


def _analyses(config: Config, available: int | None, measured: _Measured) -> int:
    """The number of analyses that a teacher writes if it reasons first."""
    method = methods.get(config)
    if not (config.teacher.reason_first and method.needs.teacher):
        return 0
    preflight = config.preflight.problems if config.preflight.enabled else 0
    if available is not None:
        preflight = min(preflight, available)
    written = preflight + method.steps_with_teacher() * config.train.questions_per_step
    if config.teacher.weights == "initial" and available is not None:
        written = min(written, available)
    return written + measured.problems
