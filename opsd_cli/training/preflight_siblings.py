"""The preflight of a teacher whose reference is a sibling rollout (`teacher.reference: sibling`).

The student first answers each problem as often as a step asks a question, sampled as rollouts are.
A right one of these is the sibling that the teacher reads. Both roles are then measured, as in any
preflight, on the problems that have a sibling or what stands in for it: on all problems the student
would be asked harder ones than the teacher. The rollouts among which a sibling is looked for are
not part of that measurement: of a problem that has one, they are right too often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import PreflightFailed
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import Reference
from opsd_cli.prompts.rendering import Prompt, after_thinking
from opsd_cli.rollouts.siblings import chosen
from opsd_cli.seeds import derive_seed
from opsd_cli.tracking.listener import PREFLIGHT_SIBLINGS
from opsd_cli.training.layout import PREFLIGHT, PREFLIGHT_SAMPLES
from opsd_cli.training.measuring import Measurements


@dataclass(frozen=True)
class Siblings:
    """The siblings of a preflight.

    Attributes:
        problems: those whose teacher has a reference.
        prompt_of: the teacher's prompt of each of them.
        drawn: the rollouts of all problems, among which siblings were looked for.
        counts: for the record: problems asked, those of them with a right rollout, and rollouts
            of each.
    """

    problems: tuple[Problem, ...]
    prompt_of: Callable[[Problem], Prompt]
    drawn: Evaluation
    counts: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """The counts in words."""
        return (
            f"{self.counts['found']} of the preflight's {self.counts['problems']} problems have a "
            f"right rollout among {self.counts['rollouts']} of the student, a sibling for the "
            f"teacher to read; compared on {len(self.problems)}"
        )


def draw_siblings(
    asked: Sequence[Problem], builder: PromptBuilder, measurements: Measurements, config: Config
) -> Siblings:
    """Sample the student on problems, and give the teacher a right rollout of each.

    Raises:
        Interrupted: the run's `stop` returned True.
    """
    rollouts = methods.get(config).rollouts_per_question()
    drawn = measurements.evaluate(
        ProblemSet(PREFLIGHT, tuple(asked), LoadReport(len(asked), len(asked))),
        PREFLIGHT_SIBLINGS,
        builder.student,
        rollouts,
        as_in_training=True,
    )
    by_problem: dict[str, list[Sample]] = {problem.id: [] for problem in asked}
    for sample in drawn.samples:
        by_problem[sample.problem_id].append(sample)
    references, found = {}, 0
    for problem in asked:
        right = [
            (sample.tokens, after_thinking(sample.completion))
            for sample in by_problem[problem.id]
            if sample.correct and after_thinking(sample.completion)
        ]
        seed = derive_seed(config.seed, "preflight sibling", *problem.key)
        text = chosen(right, config.teacher.sibling, seed)
        found += text is not None
        own = builder.reference(problem) if text is None else Reference(text, "sibling")
        if own is not None:
            references[problem.id] = own
    problems = tuple(problem for problem in asked if problem.id in references)
    return Siblings(
        problems,
        lambda problem: builder.teacher(problem, reference=references[problem.id]),
        drawn,
        {"problems": len(asked), "found": found, "rollouts": rollouts},
    )


def no_sibling(record: Mapping[str, Any], kept: Path | None) -> PreflightFailed:
    """The error of a preflight in which no problem has a sibling.

    Args:
        kept: the directory that the samples are in, if they are kept.
    """
    counts = record["siblings"]
    where = f"; every completion is in {kept / PREFLIGHT_SAMPLES}" if kept is not None else ""
    return PreflightFailed(
        f"none of the preflight's {counts['problems']} problems has a right rollout among "
        f"{counts['rollouts']} of the student: there is no sibling for the teacher to read{where}",
        "train on easier problems, raise rollouts.per_question, or give those rollouts another "
        "reference: --set teacher.without_sibling=answer or solution. To train regardless: --set "
        "preflight.enabled=false",
    )
