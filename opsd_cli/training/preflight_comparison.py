"""Which reference is best for the teacher: each that the data allows, on the same questions.

The student answers each problem once, and makes several attempts, as in training. For each source
of a reference (`teacher.reference`) the teacher answers the problems that have one, and scores the
same attempts (`opsd_cli.training.preflight_signal`). It scores them too with the reference of
another problem in its prompt, the *control*: where that does as well, it is not the reference that
tells right attempts from wrong ones, but the prompt around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsd_cli.config.schema import Config
from opsd_cli.evaluation.samples import Evaluation, Sample, assemble
from opsd_cli.formatting import points
from opsd_cli.interruption import Stop
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import OF_ONE_ROLLOUT, Reference, shown_reference
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.statistics import Estimate, paired_difference
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.preflight import completions_of, record_of
from opsd_cli.training.preflight_advice import is_few
from opsd_cli.training.preflight_references import SOURCES, attempts_at
from opsd_cli.training.preflight_signal import Signal, helps, signal_of
from opsd_cli.training.preflight_verdict import verdict_of


@dataclass(frozen=True)
class Compared:
    """What the comparison of sources found.

    Attributes:
        rows: one for each source, in order; `problems` is 0 where none has such a reference.
        recommended: the reference to take; None if none helps, or they cannot be told apart.
        reason: why, a sentence without capital and full stop.
        spent: tokens beside those of the config's own preflight.
        completions: by role.
    """

    rows: tuple[dict[str, Any], ...]
    recommended: str | None
    reason: str
    spent: TokenLedger
    completions: Mapping[str, Evaluation]

    def as_dict(self) -> dict[str, Any]:
        """As preflight-sources.json and `--json` have it."""
        return {
            "sources": list(self.rows),
            "recommended": self.recommended,
            "reason": self.reason,
            "spent": self.spent.as_dict(),
        }


class Comparison:
    """Measures sources on the same problems, completions and attempts.

    Args:
        problems: those that the preflight asks.
        found: the completions of the config's own preflight, by role.
    """

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        builder: PromptBuilder,
        measurements: Measurements,
        listener: Listener,
        stop: Stop,
        found: Mapping[str, Evaluation],
    ) -> None:
        self._config, self._problems, self._builder = config, problems, builder
        self._measurements, self._listener, self._stop = measurements, listener, stop
        self._found = dict(found)
        self._completions: dict[str, Evaluation] = {}
        self._spent = TokenLedger()
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def of(self, sources: Sequence[str]) -> Compared:
        """Measure each source.

        Raises:
            Interrupted: `stop` returned True.
        """
        student = completions_of(
            "student", self._problems, self._builder.student, self._measurements,
            self._samples("student"),
        )  # fmt: skip
        attempts = attempts_at(
            self._problems, self._builder, self._measurements, self._config,
            self._samples("scored"),
        )  # fmt: skip
        self._keep("student", student)
        self._keep("scored", attempts)
        rows = [self._row(source, student, attempts) for source in sources]
        recommended, reason = recommendation(rows, self._completions)
        return Compared(tuple(rows), recommended, reason, self._spent, self._completions)

    def _samples(self, role: str) -> tuple[Sample, ...]:
        return self._found[role].samples if role in self._found else ()

    def _keep(self, role: str, evaluation: Evaluation) -> None:
        self._completions[role] = evaluation
        self._spent += TokenLedger(evaluation=evaluation.generated)

    def _row(self, source: str, student: Evaluation, attempts: Evaluation) -> dict[str, Any]:
        """What is known of one source."""
        config = self._variant(source)
        policy = self._measurements.policy
        builder = PromptBuilder(config, policy.tokenizer, policy.context_limit)
        references = self._references(source, builder, attempts)
        problems = [problem for problem in self._problems if problem.id in references]
        if not problems:
            return {"reference": source, "problems": 0, "goes_on": False}
        prompt_of = self._prompts(config, builder, problems, references)
        own = source == self._config.teacher.reference and source not in OF_ONE_ROLLOUT
        have = self._samples("teacher") if own else ()
        whose = config.teacher.acting if config.teacher.model else None
        teacher = completions_of(
            f"teacher with {shown_reference(source, 30)}", problems, prompt_of,
            self._measurements, have, whose,
        )  # fmt: skip
        self._keep(f"teacher: {source}", teacher)
        found = {"student": _restricted(student, problems), "teacher": teacher}
        others = others_references(problems, references)
        signal = self._signal(attempts, problems, prompt_of, config)
        control = self._signal(
            attempts, [problem for problem in problems if problem.id in others],
            lambda problem: builder.teacher(problem, reference=others[problem.id]), config,
        )  # fmt: skip
        record = {
            "reference": source,
            **record_of(found, len(problems)),
            "signal": signal.as_dict(),
            "control": control.as_dict(),
        }
        verdict = verdict_of(record, config)
        return record | {
            "goes_on": verdict.goes_on,
            "cause": verdict.cause,
            "meaning": verdict.meaning,
        }

    def _variant(self, source: str) -> Config:
        """The config with this reference; rollouts without their own have none."""
        if source == self._config.teacher.reference:
            return self._config
        changes = {"reference": source, "without_reference": "skip"}
        teacher = self._config.teacher.model_copy(update=changes)
        return self._config.model_copy(update={"teacher": teacher})

    def _references(
        self, source: str, builder: PromptBuilder, attempts: Evaluation
    ) -> dict[str, Reference]:
        """The reference of each problem that has one, by id."""
        if source in OF_ONE_ROLLOUT:
            by_problem: dict[str, list[Sample]] = {problem.id: [] for problem in self._problems}
            for sample in attempts.samples:
                by_problem[sample.problem_id].append(sample)
            choose = SOURCES[source].choose
            drawn = {
                problem.id: choose(by_problem[problem.id], self._config.teacher, self._config.seed)
                for problem in self._problems
            }
        else:
            drawn = {problem.id: builder.reference(problem) for problem in self._problems}
        return {key: reference for key, reference in drawn.items() if reference is not None}

    def _prompts(
        self,
        config: Config,
        builder: PromptBuilder,
        problems: Sequence[Problem],
        references: Mapping[str, Reference],
    ) -> Callable[[Problem], Prompt]:
        """The teacher's prompt of each problem, with its analysis where it reasons first."""
        if not config.teacher.reason_first:
            return lambda problem: builder.teacher(problem, reference=references[problem.id])
        policy = self._measurements.policy
        analyst = TeacherAnalyst(config, policy, builder, None, self._listener)
        prompts = analyst.prompts(problems, stop=self._stop)
        self._spent += prompts.spent
        return prompts.of

    def _signal(
        self,
        attempts: Evaluation,
        problems: Sequence[Problem],
        prompt_of: Callable[[Problem], Prompt],
        config: Config,
    ) -> Signal:
        policy, student = self._measurements.policy, self._builder.student
        found = signal_of(
            attempts.samples, problems, (student, prompt_of), policy, policy.tokenizer, config,
            self._known, self._measurements.reading("preflight"),
        )  # fmt: skip
        self._spent += found.spent
        return found


def others_references(
    problems: Sequence[Problem], references: Mapping[str, Reference]
) -> dict[str, Reference]:
    """For each problem the reference of the next one whose reference and answer are others."""
    found = {}
    for place, problem in enumerate(problems):
        for other in (*problems[place + 1 :], *problems[:place]):
            same_answer = problem.answer is not None and other.answer == problem.answer
            if not same_answer and references[other.id] != references[problem.id]:
                found[problem.id] = references[other.id]
                break
    return found


def _restricted(evaluation: Evaluation, problems: Sequence[Problem]) -> Evaluation:
    """The evaluation's samples of these problems, in their order."""
    wanted = {problem.id for problem in problems}
    samples = [sample for sample in evaluation.samples if sample.problem_id in wanted]
    ids = [problem.id for problem in problems]
    return assemble(evaluation.name, ids, samples, evaluation.samples_per_problem)


def control_does_as_well(row: Mapping[str, Any]) -> bool:
    """True if with another problem's reference the teacher tells right from wrong as well."""
    signal, control = row["signal"]["preference"], row["control"]["preference"]
    if not (helps(row["signal"]) and helps(row["control"])):
        return False
    return bool(control["value"] >= signal["low"])


def may_be_chance(row: Mapping[str, Any]) -> bool:
    """True if a source helps, and the interval of its difference from the student has 0."""
    return bool(row["goes_on"]) and row.get("cause") == "gain_uncertain"


def recommendation(
    rows: Sequence[Mapping[str, Any]], completions: Mapping[str, Evaluation]
) -> tuple[str | None, str]:
    """The source to take, and why: a sentence without capital and full stop.

    Of those that help, the one with which the teacher answers best is taken, if it is clearly
    better than every other on the problems that both have.
    """
    helping = [row for row in rows if row["goes_on"]]
    if not helping:
        if any(row["problems"] > 0 and is_few(row["problems"]) for row in rows):
            return None, "these are too few problems to tell whether one of these references helps"
        return None, "none of these references helps"
    best, *others = sorted(helping, key=lambda row: -row["teacher"]["value"])
    name, right = best["reference"], f"{best['teacher']['value']:.0%}"
    if not others:
        if may_be_chance(best):
            return None, (
                f"{shown_reference(name, 30)} is the only one of these references that may help "
                f"({right} right with it), but on {best['problems']} problems that may be chance; "
                "more preflight.problems would tell"
            )
        return name, f"it is the only one of these references that helps: {right} right with it"
    differences = {
        row["reference"]: _difference(
            completions[f"teacher: {name}"], completions[f"teacher: {row['reference']}"]
        )
        for row in others
    }
    unclear = [each for each, gain in differences.items() if gain is None or gain.low <= 0]
    if unclear:
        listed = ", ".join(shown_reference(each, 30) for each in (name, *unclear))
        return None, (
            f"these cannot be told apart on {best['problems']} problems: {listed}; more "
            "preflight.problems may, and opsd compare --vary teacher.reference=... trains with each"
        )
    nearest = next(iter(differences))
    gain = differences[nearest]
    assert gain is not None
    return name, (
        f"the teacher answers best with it: {right} right, {points(gain)} more than with "
        f"{shown_reference(nearest, 30)}, the next best"
    )


def _difference(best: Evaluation, other: Evaluation) -> Estimate | None:
    """Accuracy of the first minus the second's, on the problems that both have."""
    common = [each for each in best.problem_ids if each in set(other.problem_ids)]
    if len(common) < 2:
        return None
    rows = [
        dict(zip(each.problem_ids, each.correct_PK.tolist(), strict=True)) for each in (best, other)
    ]
    first, second = ([row[problem_id] for problem_id in common] for row in rows)
    return paired_difference(first, second, problem_ids=common)
