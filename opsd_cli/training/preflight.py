"""The check before the first step that the reference helps the teacher.

The teacher (question and reference) and the student (question alone) answer the same training
problems. If the teacher is no better, the student makes several attempts at each, and the teacher
scores them (`opsd_cli.training.preflight_signal`). If it does not tell right attempts from wrong
ones either, there is nothing to distil, and the run ends. Where nothing is graded,
`opsd_cli.training.preflight_divergence` says what is measured instead. The record is made once: a
resumed run reads it, with what it cost. Every completion is kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.interface import TeacherWeights
from opsd_cli.config.teacher_section import NO_REFERENCE
from opsd_cli.errors import PreflightFailed
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.formatting import score
from opsd_cli.interruption import Stop
from opsd_cli.problems import LoadReport, Problem, ProblemSet
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import OF_ONE_ROLLOUT
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.prompts.teacher import boundary_mismatch
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.statistics import Estimate, paired_difference, paired_score_difference
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from opsd_cli.training.analyses import save_analyses
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.preflight_advice import ASK_SIGNAL
from opsd_cli.training.preflight_divergence import (
    divergence_record,
    is_ungraded,
    require_divergence,
)
from opsd_cli.training.preflight_failure import (
    described_sample,
    failure_line,
    hint_of,
    read_samples,
    telling_sample,
    write_samples,
)
from opsd_cli.training.preflight_grader import failures
from opsd_cli.training.preflight_references import (
    ATTEMPT,
    DrawnReferences,
    attempts_at,
    draw_references,
    no_reference,
)
from opsd_cli.training.preflight_signal import ATTEMPTS, signal_of
from opsd_cli.training.preflight_verdict import Outcome, verdict_of
from opsd_cli.training.run_directory import Run

#: Share of the reference solutions that the recorded length covers.
MOST_SOLUTIONS = 0.95


def preflight(
    run: Run,
    problems: ProblemSet,
    builder: PromptBuilder,
    analyst: TeacherAnalyst,
    measurements: Measurements,
    listener: Listener,
    stop: Stop,
) -> TokenLedger:
    """Run the preflight, or read its record; returns the tokens it took.

    Args:
        problems: the training problems, the first of which are asked.
        builder: the prompts of training.
        stop: polled after each finished rollout.

    Raises:
        PreflightFailed: the teacher is no better with the reference than the student without, and
            cannot tell its right attempts from wrong ones; or no problem has a sibling, or
            feedback, for it to read.
        Interrupted: `stop` returned True.
    """
    record = run.sealed(run_directory.PREFLIGHT)
    if record is None:
        record = measured(run, problems, builder, analyst, measurements, listener, stop)
    if not record["problems"]:
        raise no_reference(record, run.keep_failed_preflight())
    require_gain(record, record["problems"], run, listener)
    return TokenLedger(**record["spent"])


def measured(
    run: Run,
    problems: ProblemSet,
    builder: PromptBuilder,
    analyst: TeacherAnalyst,
    measurements: Measurements,
    listener: Listener,
    stop: Stop,
    found: dict[str, Evaluation] | None = None,
) -> dict[str, Any]:
    """Measure both roles, and write the record and every completion; arguments as `preflight`.

    Args:
        found: receives the completions of each role.

    Returns:
        The record, as in preflight.json; its `problems` are 0 if none has a reference.
    """
    asked = chosen = problems.problems[: run.config.preflight.problems]
    found = {} if found is None else found
    own: DrawnReferences | None = None
    spent, more = TokenLedger(), dict[str, Any]()
    if run.config.teacher.reference in OF_ONE_ROLLOUT:
        own = draw_references(asked, builder, measurements, run.config)
        listener.note(own.sentence)
        found[own.source.role], more[own.source.key] = own.drawn, dict(own.counts)
        chosen, teacher_prompt_of = own.problems, own.prompt_of
    else:
        teacher = analyst.prompts(asked, stop=stop)
        teacher_prompt_of, spent = teacher.of, teacher.spent
    if chosen:
        warning = boundary_mismatch(builder.student(chosen[0]), teacher_prompt_of(chosen[0]))
        if warning:
            listener.warn(f"{warning} (--set prompts.boundary=match aligns them)")
        roles, drawn = (builder.student, teacher_prompt_of), None if own is None else own.drawn
        of_roles, read = _of_roles(chosen, roles, builder, measurements, run, found, drawn)
        more, spent = more | of_roles, spent + read
    spent += TokenLedger(evaluation=sum(each.all_tokens for each in found.values()))
    record = {
        "problems": len(chosen),
        **more,
        "reference_tokens": reference_tokens(asked, builder),
        **failures(found.values()),
        "spent": spent.as_dict(),
    }
    save_analyses(run, 0, analyst.take_unsaved())
    write_samples(run.directory / run_directory.PREFLIGHT_SAMPLES, asked, found)
    run.write_sealed(run_directory.PREFLIGHT, record)
    measurements.forget_samples()
    return record


def _of_roles(
    problems: Sequence[Problem],
    prompts: tuple[Callable[[Problem], Prompt], Callable[[Problem], Prompt]],
    builder: PromptBuilder,
    measurements: Measurements,
    run: Run,
    found: dict[str, Evaluation],
    drawn: Evaluation | None,
) -> tuple[dict[str, Any], TokenLedger]:
    """What the record says of student and teacher, and the tokens that were read for it.

    Args:
        prompts: the student's and the teacher's.
        found: receives the completions of each role that is sampled, and new attempts.
        drawn: the student's rollouts that references were looked for among, if there are any: the
            attempts that the teacher scores where there are enough of them.
    """
    student_prompt_of, teacher_prompt_of = prompts
    config, policy = run.config, measurements.policy
    found["student"] = completions_of("student", problems, student_prompt_of, measurements)
    if not found["student"].graded:
        reading = measurements.reading("preflight")
        return divergence_record(policy, problems, found["student"], prompts, config, reading)
    # Before the first step the teacher's weights are the student's, or those of teacher.model.
    whose = config.teacher.acting if config.teacher.model else None
    found["teacher"] = completions_of(
        "teacher", problems, teacher_prompt_of, measurements, teacher=whose
    )
    record = record_of(found, len(problems))
    if verdict_of(record, config).cause not in ASK_SIGNAL:
        return record, TokenLedger()
    if drawn is None or drawn.samples_per_problem < ATTEMPTS:
        drawn = found[ATTEMPT] = attempts_at(problems, builder, measurements, config)
    signal = signal_of(
        drawn.samples, problems, prompts, policy, builder.tokenizer, config,
        reading=measurements.reading("preflight"),
    )  # fmt: skip
    return record | {"signal": signal.as_dict()}, signal.spent


def completions_of(
    role: str,
    problems: Sequence[Problem],
    prompt_of: Callable[[Problem], Prompt],
    measurements: Measurements,
    have: Sequence[Sample] = (),
    teacher: TeacherWeights | None = None,
) -> Evaluation:
    """Graded completions of the student, or of a teacher with one source of what it sees.

    Args:
        role: names the measurement; an interrupted one of this name continues.
        prompt_of: the prompt of that role: what the teacher sees is in it.
        have: samples of this role that exist already.
        teacher: whose weights sample; None for the student's.
    """
    asked = ProblemSet(run_directory.PREFLIGHT, tuple(problems), LoadReport(0, 0))
    return measurements.evaluate(asked, f"preflight: {role}", prompt_of, have=have, teacher=teacher)


def record_of(found: Mapping[str, Evaluation], problems: int) -> dict[str, Any]:
    """What preflight.json says of completions, by role: "student", "teacher" and others."""
    student, teacher = found["student"], found["teacher"]
    gain = paired_difference(
        teacher.correct_PK, student.correct_PK, problem_ids=student.problem_ids
    )
    return {
        **{role: each.as_dict()["accuracy"] for role, each in found.items()},
        "gain": gain.as_dict(),
        **_mean_scores(found),
        "truncated": {role: each.truncated for role, each in found.items()},
        "no_answer": {role: each.no_answer for role, each in found.items()},
        "outcomes": {role: Outcome.of(each).as_dict() for role, each in found.items()},
        **failures(found.values()),
        "problems": problems,
    }


def _mean_scores(found: Mapping[str, Evaluation]) -> dict[str, Any]:
    """The record's `mean_score` by role and `score_gain`, where the grader gives numbers."""
    scores = {role: each.mean_score for role, each in found.items()}
    given = {role: each.as_dict() for role, each in scores.items() if each is not None}
    if len(given) < len(scores):
        return {}
    student, teacher = found["student"], found["teacher"]
    assert student.score_PK is not None and teacher.score_PK is not None
    gain = paired_score_difference(
        teacher.score_PK, student.score_PK, problem_ids=student.problem_ids
    )
    return {"mean_score": given, "score_gain": gain.as_dict()}


def reference_tokens(problems: Sequence[Problem], builder: PromptBuilder) -> int | None:
    """Most tokens that 95% of the reference solutions have; None without solutions."""
    lengths = sorted(len(builder.tokenizer.encode(p.solution)) for p in problems if p.solution)
    return lengths[min(len(lengths) - 1, int(MOST_SOLUTIONS * len(lengths)))] if lengths else None


def require_gain(record: dict[str, Any], problems: int, run: Run, listener: Listener) -> None:
    """Report the two accuracies; raise `PreflightFailed` unless the teacher's is higher.

    Where the grader gives numbers the mean scores decide, since few may reach `grading.pass_at`.
    Its record and samples stay on disk, and one sample of the teacher is reported.
    """
    if is_ungraded(record):
        require_divergence(record, run, listener)
        return
    student, teacher = Estimate(**record["student"]), Estimate(**record["teacher"])
    if run.config.teacher.model is not None:
        sees = "the question alone" if run.config.teacher.reference == NO_REFERENCE else "it"
        listener.note(
            f"preflight: with the reference means by {run.config.teacher.model}, which sees "
            f"{sees}; without it, by the student"
        )
    listener.preflight(student, teacher, problems)
    scores = {role: Estimate(**each) for role, each in record.get("mean_score", {}).items()}
    if scores:
        listener.note(
            f"preflight: mean score {score(scores['student'])} without the reference, "
            f"{score(scores['teacher'])} with it"
        )
    verdict = verdict_of(record, run.config)
    if verdict.goes_on:
        if verdict.advice:
            listener.note(f"{verdict.meaning}; {verdict.advice}")
        return
    kept = run.keep_failed_preflight()
    samples = [] if kept is None else read_samples(kept / run_directory.PREFLIGHT_SAMPLES)
    limit = evaluation_sampling(run.config).max_new_tokens
    sample = telling_sample(samples, verdict.cause)
    if sample is not None:
        listener.warn(described_sample(sample, limit))
    raise PreflightFailed(
        failure_line(record, problems, limit, kept if samples else None, verdict.cause),
        hint_of(verdict),
    )
