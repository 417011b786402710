"""What the numbers of a preflight mean: a table of cases, and texts that end in repetitions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.statistics import Estimate, average_at_k
from opsd_cli.training.preflight_advice import ADVICE, MEANINGS
from opsd_cli.training.preflight_failure import failure_line
from opsd_cli.training.preflight_verdict import Outcome, decide, goes_on, verdict_of
from opsd_cli.training.repetition import ends_in_repetition

SURE, UNSURE, WORSE = Estimate(0.5, 0.3, 0.7), Estimate(0.1, -0.1, 0.3), Estimate(-0.4, -0.6, -0.2)
EQUAL = Estimate(0.0, -0.2, 0.2)

#: Student and teacher as (right, wrong, cut off, repeating, silent, ungraded), their difference,
#: the limit, the length of the references, and the cause.
CASES: list[tuple[tuple[float, ...], tuple[float, ...], Estimate | None, int, int | None, str]] = [
    # The teacher is better.
    ((0.4, 0.6), (0.9, 0.1), SURE, 256, 50, "gain"),
    ((0.0, 0.72, 0.1, 0.02, 0.16), (0.53, 0.47), SURE, 192, 90, "gain_from_zero"),
    ((0.03, 0.97), (0.9, 0.1), SURE, 256, 50, "gain_from_zero"),
    ((0.0, 1.0), (0.15, 0.85), SURE, 256, 50, "gain_is_rare"),
    ((0.1, 0.1, 0.8), (0.8, 0.2), SURE, 128, 50, "gain_of_form"),
    ((0.1, 0.1, 0, 0, 0.8), (0.8, 0.2), SURE, 128, 50, "gain_of_form"),
    ((0.5, 0.5), (0.6, 0.4), UNSURE, 256, 50, "gain_uncertain"),
    ((0.4, 0.6), (0.9, 0.1), None, 256, 50, "gain"),
    # It is not.
    ((0.95, 0.05), (0.95, 0.05), EQUAL, 256, 50, "solved"),
    ((0.9, 0.1), (0.0, 0, 1.0), WORSE, 256, 50, "solved"),
    ((0.0, 0, 1.0), (0.0, 0, 1.0), EQUAL, 4, 3, "truncated"),
    ((0.2, 0.8), (0.1, 0.3, 0.6), EQUAL, 256, 100, "truncated"),
    ((0.2, 0.8), (0.1, 0.3, 0.6), EQUAL, 512, 500, "truncated"),
    ((0.2, 0.8), (0.1, 0.3, 0.6), EQUAL, 512, 100, "endless"),
    ((0.2, 0.8), (0.1, 0.3, 0.6), EQUAL, 512, None, "endless"),
    ((0.0, 0, 1.0), (0.0, 0.2, 0.3, 0.5), EQUAL, 128, 100, "endless"),
    ((0.0, 0, 0, 0, 1.0), (0.0, 0.1, 0.1, 0, 0.8), EQUAL, 128, 50, "no_answer"),
    # The task is too hard: a high share is cut off too, but the answers are wrong.
    ((0.0, 0.6, 0.4), (0.0, 0.6, 0.4), EQUAL, 128, 50, "too_hard"),
    ((0.1, 0.9), (0.1, 0.9), EQUAL, 128, 50, "too_hard"),
    ((0.5, 0.5), (0.1, 0.9), WORSE, 128, 50, "misleading"),
    ((0.6, 0.4), (0.6, 0.4), EQUAL, 128, 50, "equal"),
    ((0.0, 0.5, 0, 0, 0, 0.5), (0.0, 0.1, 0, 0, 0, 0.9), EQUAL, 128, 50, "ungraded"),
]


@pytest.mark.parametrize(("student", "teacher", "gain", "limit", "reference", "cause"), CASES)
def test_preflight_verdict(
    student: tuple[float, ...],
    teacher: tuple[float, ...],
    gain: Estimate | None,
    limit: int,
    reference: int | None,
    cause: str,
) -> None:
    found = decide(Outcome(*student), Outcome(*teacher), gain, limit, reference)
    assert found == cause
    assert goes_on(Outcome(*student), Outcome(*teacher)) == cause.startswith("gain")


def test_preflight_verdict_cases_cover_every_cause() -> None:
    assert (
        {case[-1] for case in CASES} | {"signal", "grader_failed"} == set(MEANINGS) == set(ADVICE)
    )


def record(student: Outcome, teacher: Outcome, **more: Any) -> dict[str, Any]:
    """The record of a preflight with these outcomes."""
    roles = {"student": student, "teacher": teacher}
    return {
        **{role: {"value": each.right, "low": 0.0, "high": 1.0} for role, each in roles.items()},
        "truncated": {role: each.unfinished for role, each in roles.items()},
        "no_answer": {role: each.unfinished + each.silent for role, each in roles.items()},
        "problems": 32,
        **more,
    }


def outcomes(student: Outcome, teacher: Outcome) -> dict[str, Any]:
    return {"student": student.as_dict(), "teacher": teacher.as_dict()}


def test_preflight_verdict_where_answers_are_wrong_does_not_suggest_longer_completions() -> None:
    both = Outcome(0.0, 0.6, 0.4), Outcome(0.0, 0.6, 0.2, 0.2)
    found = verdict_of(record(*both, outcomes=outcomes(*both)), resolve(None))
    assert found.cause == "too_hard" and not found.goes_on
    assert "too hard for this model" in found.meaning and "60% are wrong" in found.meaning
    assert "max_new_tokens" not in found.advice
    assert "prompts.few_shot.examples=2" in found.advice and "larger model" in found.advice


def test_preflight_verdict_names_a_length_that_the_references_give() -> None:
    both = Outcome(0.0, cut_off=1.0), Outcome(0.0, cut_off=1.0)
    config = resolve(None, ["sampling.max_new_tokens=128"])
    known = record(*both, outcomes=outcomes(*both), reference_tokens=100)
    assert verdict_of(known, config).advice == "raise sampling.max_new_tokens (now 128) to 400"
    short = known | {"reference_tokens": 10}
    assert verdict_of(short, config).advice.endswith("(now 128) to 256")


@pytest.mark.parametrize(("silent", "examples"), [(0.6, True), (0.3, False)])
def test_preflight_verdict_on_a_gain_that_may_be_chance(silent: float, examples: bool) -> None:
    both = Outcome(0.1, 0.9 - silent, silent=silent), Outcome(0.2, 0.8)
    found = verdict_of(
        record(*both, outcomes=outcomes(*both), gain=UNSURE.as_dict()), resolve(None)
    )
    assert found.cause == "gain_uncertain" and "(-10.0 to +30.0)" in found.meaning
    assert "--set preflight.problems=128" in found.advice
    assert ("prompts.few_shot.examples=2" in found.advice) is examples


#: Cause's outcome, settings that follow an advice, what is no longer said, and what still is.
FOLLOWED: list[tuple[Outcome, list[str], str, str]] = [
    (Outcome(0.1, 0.9), ["prompts.few_shot.examples=2"], "few_shot", "lower evaluation.temp"),
    (
        Outcome(0.1, 0.9),
        ["prompts.few_shot.examples=3", "evaluation.temperature=0"],
        "few_shot",
        "take a larger model, or problems with shorter solutions",
    ),
    (Outcome(0.0, repeating=1.0), ["prompts.few_shot.examples=2"], "few_shot", "take a larger"),
    (Outcome(0.0, silent=1.0), ["prompts.few_shot.examples=2"], "few_shot", "take a larger"),
    (Outcome(0.0, silent=1.0), ["prompts.few_shot.examples=2"], "such as", "in other words"),
]


@pytest.mark.parametrize(("outcome", "settings", "left_out", "said"), FOLLOWED)
def test_preflight_verdict_leaves_out_advice_that_the_config_follows(
    outcome: Outcome, settings: list[str], left_out: str, said: str
) -> None:
    both = outcome, outcome
    found = verdict_of(record(*both, outcomes=outcomes(*both)), resolve(None, settings))
    assert left_out not in found.advice and said in found.advice
    before = verdict_of(record(*both, outcomes=outcomes(*both)), resolve(None))
    assert "prompts.few_shot.examples=2" in before.advice


def test_preflight_verdict_asks_for_a_form_that_the_prompts_do_not_name() -> None:
    both = Outcome(0.0, silent=1.0), Outcome(0.0, silent=1.0)
    config = resolve(None, ["prompts.student.template=Solve: {question}"])
    found = verdict_of(record(*both, outcomes=outcomes(*both)), config)
    assert found.advice.startswith("ask for a form of answer that can be read, such as \\boxed{},")


def test_preflight_verdict_does_not_ask_for_more_problems_where_all_are_measured() -> None:
    both = Outcome(0.1, 0.9), Outcome(0.2, 0.8)
    measured = record(*both, outcomes=outcomes(*both), gain=UNSURE.as_dict())
    found = verdict_of(measured, resolve(None, ["preflight.problems=200"]))
    assert found.cause == "gain_uncertain" and found.advice == ""


def test_preflight_verdict_on_a_record_of_an_earlier_version() -> None:
    student, teacher = Outcome(0.0, 0.84, 0.12, 0.0, 0.04), Outcome(0.53, 0.47)
    found = verdict_of(record(student, teacher), resolve(None))
    assert found.cause == "gain_from_zero" and found.goes_on
    assert "solves next to nothing alone and 53% with the reference" in found.meaning
    read = Outcome.in_record(record(student, teacher), "student")
    assert read.wrong == pytest.approx(0.84) and read.silent == pytest.approx(0.04)


def sample(number: int, status: str, finish: str, completion: str = "") -> Sample:
    answer = None if status == "no_answer" else "1"
    right = status == "correct"
    return Sample(str(number), 0, completion, 9, finish, answer, status, right)


def test_preflight_outcome_of_samples() -> None:
    loop = "The total cost of the two days is 2*46 = 98.\n"
    samples = (
        sample(0, "correct", "stop"),
        sample(1, "correct", "length"),
        sample(2, "wrong", "length", "It is \\boxed{2}. So he"),
        sample(3, "no_answer", "length", "First, he buys three apples and"),
        sample(4, "no_answer", "length", loop * 4),
        sample(5, "no_answer", "stop", loop * 4),
        sample(6, "timeout", "stop"),
        sample(7, "unparsable_gold", "stop"),
        sample(8, "wrong", "length", "He buys"),  # the first words, taken for an answer
        sample(9, "wrong", "stop", "2"),
    )
    ids = tuple(each.problem_id for each in samples)
    found = Outcome.of(Evaluation("a", ids, 1, samples, 0, 0))
    assert found == Outcome(0.2, 0.2, 0.2, 0.1, 0.1, 0.2)
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert average_at_k([[each.correct] for each in samples]).value == found.right


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("The school covers half of the cost, which is 1/2*240 = 160.\n" * 4, True),
        ("So it is 2*46 = 98.\nSo it is 2*98 = 198.\nSo it is 2*198 = 444.\n" * 2, True),
        ("He has 3. " + "and so on, and on, " * 9 + "and so", True),
        ("The school covers half of the cost, which is 1/2*240 = 160.\n" * 2, False),
        (
            "He buys 3 apples for 2 euros each. That is 6 euros. She sells 4 pears at 5 euros.",
            False,
        ),
        ("ha ha ha", False),
        ("", False),
    ],
)
def test_ends_in_repetition(text: str, repeats: bool) -> None:
    assert ends_in_repetition(text) is repeats
    assert ends_in_repetition("Unlike what follows, this is said once only. " + text) is repeats


#: Outcomes of student and teacher, and whether a higher limit is among the suggestions.
CUT_OFF = [
    (Outcome(0.0, 0.33, 0.67), Outcome(0.33, 0.0, 0.67), True),
    (Outcome(0.33, 0.67), Outcome(0.4, 0.0, 0.6), True),
    (Outcome(0.33, 0.27, 0.4), Outcome(0.4, 0.2, 0.4), False),
    (Outcome(0.1, 0.9), Outcome(0.4, repeating=0.6), False),
]


@pytest.mark.parametrize(("student", "teacher", "longer"), CUT_OFF)
@pytest.mark.parametrize("gain", [SURE, UNSURE])
def test_preflight_verdict_names_the_limit_where_most_completions_are_cut_off(
    student: Outcome, teacher: Outcome, longer: bool, gain: Estimate
) -> None:
    measured = record(student, teacher, outcomes=outcomes(student, teacher), gain=gain.as_dict())
    found = verdict_of(measured, resolve(None, ["sampling.max_new_tokens=64"]))
    assert found.goes_on and ("raise sampling.max_new_tokens (now 64)" in found.advice) == longer
    own = resolve(None, ["evaluation.max_new_tokens=65"])
    named = "raise evaluation.max_new_tokens (now 65)" in verdict_of(measured, own).advice
    assert named == longer


@pytest.mark.parametrize(("problems", "few"), [(1, True), (7, True), (8, False)])
def test_preflight_verdict_of_too_few_problems_is_no_finding(problems: int, few: bool) -> None:
    both = Outcome(0.0, 1.0), Outcome(0.0, 1.0)
    measured = record(*both, outcomes=outcomes(*both), gain=EQUAL.as_dict()) | {
        "problems": problems
    }
    found = verdict_of(measured, resolve(None, [f"preflight.problems={problems}"]))
    assert not found.goes_on and found.cause == "too_hard"
    assert found.conclusion.startswith("too few problems to tell") == few
    assert found.meaning.startswith(f"on {problems} problem") == few
    assert found.advice.startswith("measure more problems: --set preflight.problems=32") == few
    no_more = verdict_of(measured, resolve(None))  # it asks for 32
    assert no_more.advice.startswith("give more training problems") == few
    line = failure_line(measured, problems, 64, None)
    assert ("nothing to distil" in line) != few and ("too few problems to tell" in line) == few
    assert ("on 1 problem;" in line) == (problems == 1)


@pytest.mark.parametrize(("low", "cause"), [(-0.1, "gain_uncertain"), (0.1, "gain")])
def test_preflight_verdict_on_mean_scores_that_may_differ_by_chance(low: float, cause: str) -> None:
    both = Outcome(0.0, 1.0), Outcome(0.0, 1.0)
    scores = {"student": Estimate(0.2, 0.1, 0.3).as_dict(), "teacher": SURE.as_dict()}
    gain = Estimate(0.3, low, 0.7).as_dict()
    measured = record(*both, outcomes=outcomes(*both), mean_score=scores, score_gain=gain)
    found = verdict_of(measured, resolve(None))
    assert found.goes_on and found.cause == cause
    assert ("may be chance: +0.300 (-0.100 to +0.700)" in found.meaning) == (low < 0)
