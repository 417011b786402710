"""Reason first: the teacher studies the reference before it judges anybody.

With `teacher.reason_first` the teacher, seeing question and reference, first writes an analysis of
the solution in its own words, which then joins its context. A solution that is correct but terse
says little about why; a model's own account of it may say more, and in its own style. It costs
generated tokens, which the ledger counts like any other.

Under the initial weights an analysis depends on the problem alone, so it is written once a run.
Under live or averaged weights the teacher changes, so it is written anew each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.interface import Policy, RolloutRequest, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import after_thinking
from opsd_cli.seeds import derive_seed
from opsd_cli.stopping import Stop, never, until_stopped
from opsd_cli.token_ledger import TokenLedger


def analyse(
    problems: Sequence[Problem],
    contexts: PromptBuilder,
    policy: Policy,
    config: Config,
    occasion: Mapping[tuple[str, str], int] | None = None,
    stop: Stop = never,
) -> TokenLedger:
    """Have the teacher write whatever analyses its prompts for these problems still lack.

    Args:
        occasion: for each problem's key, the seed of this occasion; used only where the teacher's
            weights change, so that its analyses are new.
        stop: polled after each analysis.

    Returns:
        The tokens spent; nothing at all where `teacher.reason_first` is off.

    Raises:
        DataError: a problem has no reference solution.
        Interrupted: `stop` said so.
    """
    if not config.teacher.reason_first:
        return TokenLedger()
    fixed = config.teacher.weights == "initial"
    due = {p.id: p for p in problems if not (fixed and contexts.has_analysis(p))}
    requests = [
        RolloutRequest(
            problem.id,
            0,
            contexts.analysis_request(problem).ids,
            derive_seed(config.seed, "analysis", *problem.key)
            if fixed or occasion is None
            else derive_seed(occasion[problem.key], "analysis"),
        )
        for problem in due.values()
    ]
    sampling = Sampling(
        **{**config.sampling.model_dump(), "max_new_tokens": config.teacher.analysis_tokens}
    )
    spent = TokenLedger(prompt=sum(len(request.prompt_ids) for request in requests))
    drawn = policy.generate(requests, sampling, "teacher", config.teacher.weights)
    for rollout in until_stopped(drawn, len(requests), stop):
        ids = [token for token in rollout.completion_ids if token not in policy.stop_ids]
        text = after_thinking(contexts.tokenizer.decode(ids))
        contexts.take_analysis(due[rollout.request.problem_id], text)
        spent += TokenLedger(generated=len(rollout.completion_ids))
    return spent
