"""What a set without checkable answers is measured by, in place of accuracy.

- the divergence: of the completions that the student samples, between the teacher and the student,
  as the run's loss takes it (its kind, temperature, clipping, and mean over tokens or completions);
- the likelihood of the solutions: their mean log-probability a token under the student's prompt.

Both are in nats a token. The problem is the sampling unit, as for accuracies
(`opsd_cli.evaluation.means`). Divergences of two runs compare only if both have the same
divergence and the same teacher; likelihoods compare between any runs of one model.

Shapes: N tokens, P problems, K samples a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from backends.interface import DivergenceBatch, DivergenceItem, Policy, TeacherWeights
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.means import mean_of_problems
from opsd_cli.evaluation.reading import Reading
from opsd_cli.evaluation.samples import Sample
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import Prompt, Tokenizer, escape_control_tokens
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import DIVERGENCE, LIKELIHOOD

Prompts = Callable[[Problem], Prompt]


@dataclass(frozen=True)
class HeldOut:
    """The two measures of a set, and the tokens read for them.

    Attributes:
        divergence: nats a token, at least 0; None if no problem has a reference for the teacher, or
            every completion is empty.
        reference_log_prob: nats a token, at most 0; None if no problem has a solution.
    """

    divergence: Estimate | None = None
    reference_log_prob: Estimate | None = None
    spent: TokenLedger = field(default_factory=TokenLedger)

    @property
    def quality(self) -> float | None:
        """What the best checkpoint has most of: minus the divergence, or the log-probability where
        there is no divergence; None without either."""
        if self.divergence is not None:
            return -self.divergence.value
        return None if self.reference_log_prob is None else self.reference_log_prob.value

    @classmethod
    def in_row(cls, row: Mapping[str, Any]) -> HeldOut:
        """The measures in a row of evaluations.jsonl."""
        own, likely = row.get("divergence"), row.get("reference_log_prob")
        return cls(Estimate(**own) if own else None, Estimate(**likely) if likely else None)


def measured(
    policy: Policy,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    builder: PromptBuilder,
    analyst: TeacherAnalyst,
    config: Config,
    reading: Reading | None = None,
) -> HeldOut:
    """Both measures of a set, with the policy's weights as they are.

    A method without a teacher has no divergence.

    Args:
        samples: the student's, with their tokens.
        builder: the prompts that they were sampled from, and the teacher's.
        analyst: the teacher's, with the analyses that it has written already.
        reading: receives the progress, and is asked whether to stop after each analysis too.

    Raises:
        Interrupted: the user asked to stop.
    """
    reading = reading or Reading()
    likely = reference_log_prob(policy, problems, builder.student, reading)
    if not methods.get(config).needs.teacher:
        return likely
    taught = [problem for problem in problems if builder.reference(problem) is not None]
    teacher = analyst.prompts(taught, stop=reading.stop)
    found = divergence(
        policy,
        samples,
        {problem.id: builder.student(problem) for problem in taught},
        {problem.id: teacher.of(problem) for problem in taught},
        config,
        reading,
    )
    spent = likely.spent + teacher.spent + found.spent
    return replace(likely, divergence=found.divergence, spent=spent)


def reference_log_prob(
    policy: Policy,
    problems: Sequence[Problem],
    prompt_of: Prompts,
    reading: Reading | None = None,
    role: Literal["student", "teacher"] = "student",
    teacher: TeacherWeights = "initial",
) -> HeldOut:
    """The log-probability of the problems' solutions, each problem's mean over its tokens first.

    A solution that does not fit the context after its prompt is cut at its end.

    Args:
        prompt_of: the prompt that the solution follows.
        reading: as `measured` has it.
        role: whose weights, as in `Policy.score`.

    Raises:
        Interrupted: the user asked to stop.
    """
    reading = reading or Reading()
    pairs = []
    for problem in problems:
        if problem.solution:
            prompt = prompt_of(problem).ids
            ids = tokens_of(problem.solution, policy.tokenizer)
            pairs.append((prompt, _fitting(ids, prompt, policy)))
    pairs = [(prompt, ids) for prompt, ids in pairs if ids]
    if not pairs:
        return HeldOut()
    lengths = [len(prompt) + len(ids) for prompt, ids in pairs]
    reading.begin(reading.label + LIKELIHOOD, lengths)
    scores = reading.scores(policy, pairs, role, teacher)
    means_P = [float(np.mean(scores_N, dtype=np.float64)) for scores_N in scores]
    read = sum(lengths)
    spent = TokenLedger(scored=read) if role == "student" else TokenLedger(teacher_scored=read)
    found = mean_of_problems(means_P)
    # No log-probability is above 0, and neither is the mean of all problems.
    return HeldOut(reference_log_prob=replace(found, high=min(0.0, found.high)), spent=spent)


def tokens_of(solution: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of a solution as a completion, control tokens escaped, without an end."""
    return tuple(tokenizer.encode(escape_control_tokens(solution, tokenizer)))


def divergence(
    policy: Policy,
    samples: Sequence[Sample],
    student_prompts: Mapping[str, Prompt],
    teacher_prompts: Mapping[str, Prompt],
    config: Config,
    reading: Reading | None = None,
) -> HeldOut:
    """The divergence between teacher and student on completions, by the config's loss.

    Token weights (`divergence.weigh`) and anchors are left out, so that it compares between them.
    With `divergence.vocabulary: sampled` it is that of the whole vocabulary, which the loss
    estimates from one token: the reverse KL.

    Args:
        samples: with their tokens; those of problems without a teacher's prompt are left out. One
            that does not fit the context after the longer prompt is cut at its end.
        student_prompts, teacher_prompts: by problem id.
        config: its divergence, its teacher's weights, and `train.reduction`.
        reading: as `measured` has it.

    Raises:
        Interrupted: the user asked to stop.
    """
    reading = reading or Reading()
    ids, items = [], []
    for sample in samples:
        if sample.problem_id in teacher_prompts:
            student = student_prompts[sample.problem_id].ids
            teacher = teacher_prompts[sample.problem_id].ids
            read = _fitting(sample.completion_ids, max(student, teacher, key=len), policy)
            if read:
                ids.append(sample.problem_id)
                items.append(DivergenceItem(student, teacher, read))
    if not items:
        return HeldOut()
    spec = config.divergence.spec()
    if config.divergence.vocabulary == "sampled":
        spec = replace(spec, kind="reverse_kl", clip="none", top_k=None)
    student_tokens = [len(item.student_prompt) + len(item.completion) for item in items]
    teacher_tokens = [len(item.teacher_prompt) + len(item.completion) for item in items]
    reading.begin(reading.label + DIVERGENCE, np.add(student_tokens, teacher_tokens).tolist())
    totals: list[float] = []
    for part in reading.parts(items):
        reports = policy.measure(DivergenceBatch(tuple(part), spec, config.teacher.acting)).tokens
        totals += [float(np.sum(report.value, dtype=np.float64)) for report in reports]
    spent = TokenLedger(scored=sum(student_tokens), teacher_scored=sum(teacher_tokens))
    lengths = [len(item.completion) for item in items]
    found = _reduced(ids, totals, lengths, config.train.reduction)
    # No divergence is below 0; a mean of clipped terms may be.
    low = max(0.0, found.low) if found.value >= 0 else found.low
    return HeldOut(divergence=replace(found, low=low), spent=spent)


def _fitting(ids: tuple[int, ...], prompt: tuple[int, ...], policy: Policy) -> tuple[int, ...]:
    """The first tokens of a completion, as many as the context has room for after the prompt."""
    limit = policy.context_limit
    return ids if limit is None else ids[: max(0, limit - len(prompt))]


def _reduced(
    ids: Sequence[str], totals: Sequence[float], lengths: Sequence[int], reduction: str
) -> Estimate:
    """The mean of completions' total divergences as the loss takes it, with its interval.

    Args:
        ids: the problem of each completion.
        totals: nats, of all tokens of each.
        lengths: tokens of each.
    """
    by_problem: dict[str, list[tuple[float, int]]] = {}
    for problem_id, total, length in zip(ids, totals, lengths, strict=True):
        by_problem.setdefault(problem_id, []).append((total, length))
    if reduction == "tokens":
        tokens_P = [sum(length for _, length in own) for own in by_problem.values()]
        total_P = [sum(total for total, _ in own) for own in by_problem.values()]
        return mean_of_problems(np.divide(total_P, tokens_P), tokens_P)
    value_P = [np.mean([total / length for total, length in own]) for own in by_problem.values()]
    return mean_of_problems(value_P, [len(own) for own in by_problem.values()])
