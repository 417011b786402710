"""The preflight of a teacher whose reference belongs to one rollout: a sibling, or feedback.

The student first answers each problem as often as a step asks a question, sampled as rollouts are.
With `teacher.reference: sibling` the teacher reads a right one of these, and with `feedback` what
the grader said of one, a wrong one if there is any. Both roles are then measured, as in any
preflight, on the problems that have such a reference or what stands in for it: on all problems the
student would be asked harder ones than the teacher, or easier ones. The rollouts among which a
reference is looked for are not part of that measurement: of a problem that has a sibling they are
right too often, and of one with feedback too seldom.

With feedback the teacher writes a new solution here, while in training it scores the attempt that
the feedback is about. What is measured is whether the feedback is of use to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.config.teacher_section import Teacher
from opsd_cli.errors import PreflightFailed
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import FEEDBACK, SIBLING, Reference
from opsd_cli.prompts.rendering import Prompt, after_thinking
from opsd_cli.rollouts.siblings import chosen, feedback_reference
from opsd_cli.seeds import derive_seed
from opsd_cli.tracking.listener import PREFLIGHT_ATTEMPTS, PREFLIGHT_FEEDBACK, PREFLIGHT_SIBLINGS
from opsd_cli.training.layout import PREFLIGHT, PREFLIGHT_SAMPLES
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.preflight_failure import CHECK
from opsd_cli.training.preflight_grader import MEND, described, mostly_failed
from opsd_cli.training.preflight_signal import ATTEMPTS
from opsd_cli.training.preflight_verdict import UNMEASURED

#: Role of the attempts that the teacher scores, in the samples.
ATTEMPT = "scored"


@dataclass(frozen=True)
class Source:
    """How a preflight finds references among the student's rollouts, and what it says of them.

    Attributes:
        role: of these rollouts, in the record and in the samples.
        key: of the counts in the record; no role has this name.
        phase: in which they are sampled.
        choose: the reference among the rollouts of one problem; the last argument is a seed.
        wanted: what is looked for.
        called: what it is to the teacher.
        otherwise: what a user may do if there is none.
    """

    role: str
    key: str
    phase: str
    choose: Callable[[Sequence[Sample], Teacher, int], Reference | None]
    wanted: str
    called: str
    otherwise: str


def _sibling(samples: Sequence[Sample], teacher: Teacher, seed: int) -> Reference | None:
    right = [
        (sample.tokens, after_thinking(sample.completion))
        for sample in samples
        if sample.correct and after_thinking(sample.completion)
    ]
    text = chosen(right, teacher.sibling, seed)
    return None if text is None else Reference(text, "sibling")


def _feedback(samples: Sequence[Sample], teacher: Teacher, seed: int) -> Reference | None:
    """What the grader said of the first wrong rollout, else of the first that it spoke of."""
    wrong_first = sorted(samples, key=lambda sample: (sample.correct, sample.sample_index))
    found = (feedback_reference(sample.feedback) for sample in wrong_first)
    return next((each for each in found if each is not None), None)


#: `teacher.reference` -> where its preflight finds references.
SOURCES = {
    SIBLING: Source(
        "sibling", "siblings", PREFLIGHT_SIBLINGS, _sibling,
        "a right rollout", "sibling",
        "train on easier problems, raise rollouts.per_question, or give those rollouts",
    ),
    FEEDBACK: Source(
        "attempt", "feedback", PREFLIGHT_FEEDBACK, _feedback,
        "a rollout with feedback", "feedback",
        "let the grader say what is wrong, train on harder problems, or give those rollouts",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class DrawnReferences:
    """The references of a preflight.

    Attributes:
        source: where they are from.
        problems: those whose teacher has a reference.
        prompt_of: the teacher's prompt of each of them.
        drawn: the rollouts of all problems, among which references were looked for.
        counts: for the record: problems asked, those of them with such a rollout, and rollouts
            of each.
    """

    source: Source
    problems: tuple[Problem, ...]
    prompt_of: Callable[[Problem], Prompt]
    drawn: Evaluation
    counts: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """The counts in words."""
        return (
            f"{self.counts['found']} of the preflight's {self.counts['problems']} problems have "
            f"{self.source.wanted}{_among(self.counts['rollouts'])}; the teacher reads the "
            f"{self.source.called}; compared on {len(self.problems)}"
        )


def draw_references(
    asked: Sequence[Problem], builder: PromptBuilder, measurements: Measurements, config: Config
) -> DrawnReferences:
    """Sample the student on problems, and give the teacher a reference from the rollouts of each.

    Raises:
        Interrupted: the run's `stop` returned True.
    """
    source = SOURCES[config.teacher.reference]
    rollouts = methods.get(config).rollouts_per_question()
    drawn = measurements.evaluate(
        ProblemSet(PREFLIGHT, tuple(asked), LoadReport(len(asked), len(asked))),
        source.phase,
        builder.student,
        rollouts,
        as_in_training=True,
    )
    by_problem: dict[str, list[Sample]] = {problem.id: [] for problem in asked}
    for sample in drawn.samples:
        by_problem[sample.problem_id].append(sample)
    references, found = {}, 0
    for problem in asked:
        seed = derive_seed(config.seed, f"preflight {source.role}", *problem.key)
        own = source.choose(by_problem[problem.id], config.teacher, seed)
        found += own is not None
        reference = own or builder.reference(problem)
        if reference is not None:
            references[problem.id] = reference
    problems = tuple(problem for problem in asked if problem.id in references)
    return DrawnReferences(
        source,
        problems,
        lambda problem: builder.teacher(problem, reference=references[problem.id]),
        drawn,
        {"problems": len(asked), "found": found, "rollouts": rollouts},
    )


def attempts_at(
    problems: Sequence[Problem],
    builder: PromptBuilder,
    measurements: Measurements,
    config: Config,
    have: Sequence[Sample] = (),
) -> Evaluation:
    """The student's attempts at problems, sampled as rollouts are, for the teacher to score.

    Args:
        have: those that exist already.

    Raises:
        Interrupted: the run's `stop` returned True.
    """
    return measurements.evaluate(
        ProblemSet(PREFLIGHT, tuple(problems), LoadReport(len(problems), len(problems))),
        PREFLIGHT_ATTEMPTS,
        builder.student,
        max(ATTEMPTS, methods.get(config).rollouts_per_question()),
        as_in_training=True,
        have=have,
    )


def _among(rollouts: int) -> str:
    """Of how many rollouts of a problem, in words that follow what was looked for."""
    return f" among {rollouts} of the student" if rollouts > 1 else " (one sampled for each)"


def no_reference(record: Mapping[str, Any], kept: Path | None) -> PreflightFailed:
    """The error of a preflight in which no problem has a reference.

    Args:
        kept: the directory that the samples are in, if they are kept.
    """
    where = f"; every completion is in {kept / PREFLIGHT_SAMPLES}" if kept is not None else ""
    if mostly_failed(record):
        return PreflightFailed(f"{UNMEASURED}: {described(record)}{where}", f"{MEND}. {CHECK}")
    source = next(each for each in SOURCES.values() if each.key in record)
    counts = record[source.key]
    return PreflightFailed(
        f"none of the preflight's {counts['problems']} problems has "
        f"{source.wanted}{_among(counts['rollouts'])}: there is no "
        f"{source.called} for the teacher to read{where}",
        f"{source.otherwise} another reference: --set teacher.without_reference=answer or "
        "solution. To train regardless: --set preflight.enabled=false",
    )
