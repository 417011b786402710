"""The check before the first step that the reference helps the teacher.

The teacher (question and reference) and the student (question alone) answer the same training
problems. Where the teacher is no better there is nothing to distil, and the run ends. The record is
made once: a resumed run reads it, with what it cost. Every completion is kept beside it.
"""

from __future__ import annotations

from typing import Any

from opsd_cli.errors import PreflightFailed
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.samples import Evaluation
from opsd_cli.interruption import Stop
from opsd_cli.problems import ProblemSet
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import SIBLING
from opsd_cli.prompts.teacher import boundary_mismatch
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst, TeacherPrompts
from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from opsd_cli.training.analyses import save_analyses
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.preflight_failure import (
    cause_of,
    described_sample,
    failure_line,
    hint_of,
    read_samples,
    telling_sample,
    write_samples,
)
from opsd_cli.training.preflight_siblings import draw_siblings, no_sibling
from opsd_cli.training.run_directory import Run


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
        PreflightFailed: the teacher is no better with the reference than the student without, or
            no problem has a sibling for it to read.
        Interrupted: `stop` returned True.
    """
    chosen = problems.problems[: run.config.preflight.problems]
    record = run.sealed(run_directory.PREFLIGHT)
    if record is None:
        everyone, found, more = chosen, dict[str, Evaluation](), {}
        if run.config.teacher.reference == SIBLING:
            siblings = draw_siblings(chosen, builder, measurements, run.config)
            listener.note(siblings.sentence)
            chosen, teacher = siblings.problems, TeacherPrompts({})
            found["sibling"], prompt_of = siblings.drawn, siblings.prompt_of
            more = {"siblings": dict(siblings.counts)}
        else:
            teacher = analyst.prompts(chosen, stop=stop)
            prompt_of = teacher.of
        if chosen:
            warning = boundary_mismatch(builder.student(chosen[0]), prompt_of(chosen[0]))
            if warning:
                listener.warn(f"{warning} (--set prompts.boundary=match aligns them)")
        asked = ProblemSet(run_directory.PREFLIGHT, chosen, problems.report)
        for role, prompt in (("student", builder.student), ("teacher", prompt_of)):
            if chosen:
                found[role] = measurements.evaluate(asked, f"preflight: {role}", prompt)
        evaluated = TokenLedger(evaluation=sum(each.all_tokens for each in found.values()))
        record = {
            **{role: each.accuracy.as_dict() for role, each in found.items()},
            "truncated": {role: each.truncated for role, each in found.items()},
            "no_answer": {role: each.no_answer for role, each in found.items()},
            "problems": len(chosen),
            "spent": (teacher.spent + evaluated).as_dict(),
            **more,
        }
        save_analyses(run, 0, analyst.take_unsaved())
        write_samples(run.directory / run_directory.PREFLIGHT_SAMPLES, everyone, found)
        run.write_sealed(run_directory.PREFLIGHT, record)
        measurements.forget_samples()
    require_gain(record, record["problems"], run, listener)
    return TokenLedger(**record["spent"])


def require_gain(record: dict[str, Any], problems: int, run: Run, listener: Listener) -> None:
    """Report the two accuracies; raise `PreflightFailed` unless the teacher's is higher.

    Its record and samples stay on disk, and one sample of the teacher is reported.
    """
    if not problems:
        raise no_sibling(record, run.keep_failed_preflight())
    student, teacher = Estimate(**record["student"]), Estimate(**record["teacher"])
    listener.preflight(student, teacher, problems)
    if teacher.value > student.value:
        return
    kept = run.keep_failed_preflight()
    samples = [] if kept is None else read_samples(kept / run_directory.PREFLIGHT_SAMPLES)
    limit = evaluation_sampling(run.config).max_new_tokens
    cause = cause_of(record)
    sample = telling_sample(samples, cause)
    if sample is not None:
        listener.warn(described_sample(sample, limit))
    raise PreflightFailed(
        failure_line(record, problems, limit, kept if samples else None),
        hint_of(cause, run.config),
    )
