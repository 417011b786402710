"""The preflight where nothing is graded: whether the reference makes a difference to the model.

No accuracy says whether the teacher is better. Measured are the divergence between the roles on the
student's completions, and the log-probability of the solutions under either prompt. Refused is only
what is certain: a divergence of 0, which leaves nothing to learn, and references that are all cut
to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.interface import Policy
from opsd_cli.config.schema import Config
from opsd_cli.errors import PreflightFailed
from opsd_cli.evaluation.held_out import divergence, reference_log_prob
from opsd_cli.evaluation.reading import Reading
from opsd_cli.evaluation.samples import Evaluation
from opsd_cli.formatting import nats, numbered, share
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener
from opsd_cli.training.preflight_failure import CHECK
from opsd_cli.training.preflight_verdict import Verdict
from opsd_cli.training.run_directory import Run

#: Up to this mean divergence, nats a token, two prompts differ by rounding alone.
ROUNDING = 1e-6
#: Share of completions that are cut off from which on a higher limit is suggested.
OFTEN = 0.5
LOOK = "to look: opsd sample --show-prompts (with the same --config, --model and --set)"
_REGARDLESS = f"{CHECK}. To train regardless: --set preflight.enabled=false"

Prompts = Callable[[Problem], Prompt]


def divergence_record(
    policy: Policy,
    problems: Sequence[Problem],
    student: Evaluation,
    prompts: tuple[Prompts, Prompts],
    config: Config,
    reading: Reading,
) -> tuple[dict[str, Any], TokenLedger]:
    """What preflight.json says where nothing is graded, and the tokens read for it.

    Args:
        student: its completions of the problems.
        prompts: the student's and the teacher's prompt of a problem.
        reading: receives the progress, and is asked whether to stop.

    Raises:
        Interrupted: the user asked to stop.
    """
    by_role = [{problem.id: prompt_of(problem) for problem in problems} for prompt_of in prompts]
    found = divergence(policy, student.samples, by_role[0], by_role[1], config, reading)
    roles = {
        "student": reference_log_prob(policy, problems, prompts[0], reading),
        "teacher": reference_log_prob(
            policy, problems, prompts[1], reading, "teacher", config.teacher.acting
        ),
    }
    likely = {
        role: each.reference_log_prob.as_dict()
        for role, each in roles.items()
        if each.reference_log_prob is not None
    }
    record = {
        "divergence": None if found.divergence is None else found.divergence.as_dict(),
        **({"reference_log_prob": likely} if len(likely) == len(roles) else {}),
        "truncated": {"student": student.truncated},
        "references_shortened": sum(prompt.shortened for prompt in by_role[1].values()),
        "problems": len(problems),
    }
    return record, found.spent + roles["student"].spent + roles["teacher"].spent


def is_ungraded(record: Mapping[str, Any]) -> bool:
    """Whether the record of a preflight is of a run in which nothing is graded."""
    return "divergence" in record


def divergence_of(record: Mapping[str, Any]) -> Estimate:
    """The divergence between the roles; 0 where every completion is empty."""
    found = record["divergence"]
    return Estimate(0.0, 0.0, 0.0) if found is None else Estimate(**found)


def verdict_of_divergence(record: Mapping[str, Any]) -> Verdict:
    """The verdict on the record of a preflight in which nothing is graded."""
    if record["references_shortened"] == record["problems"]:
        return Verdict(
            "references_cut",
            False,
            f"the reference of each of the preflight's {record['problems']} problems is cut to fit "
            "the teacher's prompt",
            "raise prompts.teacher.max_tokens, lower sampling.max_new_tokens, or give the teacher "
            "shorter references",
        )
    if divergence_of(record).value <= ROUNDING:
        return Verdict(
            "no_divergence",
            False,
            "the reference makes no difference: the divergence between teacher and student is 0",
            "give the teacher the reference in prompts.teacher.template, or another "
            f"teacher.reference; {LOOK}",
        )
    return Verdict(
        "divergence",
        True,
        "the reference makes a difference: the teacher, which reads it, diverges from the student. "
        "Nothing is graded, so whether it is a better one was not measured",
        "; ".join(_advice(record)),
    )


def _advice(record: Mapping[str, Any]) -> list[str]:
    """What is worth a look although training goes on."""
    found = []
    likely = record.get("reference_log_prob")
    if likely and likely["teacher"]["value"] <= likely["student"]["value"]:
        found.append(
            "the solutions are no more likely with the reference in view, so the model may not "
            f"make use of it; {LOOK}"
        )
    if record["references_shortened"]:
        found.append(
            f"{record['references_shortened']} of {record['problems']} references are cut to fit "
            "the teacher's prompt: raise prompts.teacher.max_tokens"
        )
    if record["truncated"]["student"] > OFTEN:
        found.append(
            f"{share(record['truncated']['student'])} of the student's completions were cut off: "
            "raise sampling.max_new_tokens"
        )
    return found


def lines_of(record: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, by name, in words: for a line and for a table."""
    found = {"divergence between the roles": f"{nats(divergence_of(record))} nats a token"}
    names = {"student": "without the reference", "teacher": "with it"}
    for role, each in record.get("reference_log_prob", {}).items():
        name = f"log-probability of the solutions {names[role]}"
        found[name] = f"{nats(Estimate(**each))} nats a token"
    return found


def require_divergence(record: Mapping[str, Any], run: Run, listener: Listener) -> None:
    """Report what was measured; raise `PreflightFailed` where nothing can be learnt."""
    measured = "; ".join(f"{name} {value}" for name, value in lines_of(record).items())
    listener.note(f"preflight on {numbered(record['problems'], 'problem')}: {measured}")
    verdict = verdict_of_divergence(record)
    if not verdict.goes_on:
        run.keep_failed_preflight()
        raise PreflightFailed(verdict.meaning, f"{verdict.advice}. {_REGARDLESS}")
    if verdict.advice:
        listener.note(verdict.advice)
