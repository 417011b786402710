"""The teacher's prompts of a step, with the analyses that it writes first where it is asked to.

With `teacher.reason_first` the teacher, given question and reference solution, first writes an
analysis of the solution in its own words, which is then part of its prompt. A correct but terse
solution says little about why its steps hold; the model's own account may say more, and in the
model's own style. It costs generated tokens, which the ledger counts like any others.

Under initial weights an analysis depends on the problem alone, so it is written once per run. Under
live or averaged weights the teacher changes, so it is written again for each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backends.interface import Policy, RolloutRequest, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.interruption import Stop, never, until_stopped
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import Prompt, after_thinking
from opsd_cli.rollouts.watching import watched
from opsd_cli.seeds import derive_seed
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import ANALYSES, Listener


@dataclass(frozen=True)
class TeacherPrompts:
    """The teacher's prompts of some problems.

    Attributes:
        prompts: by `Problem.key`.
        spent: tokens that writing their analyses took.
    """

    prompts: dict[tuple[str, str], Prompt]
    spent: TokenLedger = field(default_factory=TokenLedger)

    def of(self, problem: Problem) -> Prompt:
        """The prompt of one of the problems."""
        return self.prompts[problem.key]


class TeacherAnalyst:
    """Gives the teacher's prompts of a problem set, and has missing analyses written.

    Args:
        config: whether the teacher reasons first, with which weights, and how long it may write.
        policy: the teacher.
        builder: renders the prompts of the problem set.
        known: analyses by `Problem.key` that a former process wrote; used under initial weights.
        listener: receives the progress of writing.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        builder: PromptBuilder,
        known: Mapping[tuple[str, str], str] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._builder = builder
        self._known = dict(known or {})
        self._listener = listener or Listener()
        self._unsaved: dict[tuple[str, str], str] = {}
        self._given: dict[tuple[str, str], Prompt] = {}

    def prompts(
        self,
        problems: Sequence[Problem],
        seeds: Mapping[tuple[str, str], int] | None = None,
        stop: Stop = never,
    ) -> TeacherPrompts:
        """The teacher's prompt of each problem.

        Args:
            seeds: by `Problem.key`, the seed of this step. Used only under weights that change,
                so that each step's analyses are new.
            stop: polled after each analysis.

        Raises:
            DataError: a problem has no reference solution.
            Interrupted: `stop` returned True.
        """
        found = self._prompts(problems, seeds, stop)
        self._given |= found.prompts
        return found

    def take_prompts(self) -> dict[tuple[str, str], Prompt]:
        """The prompts by `Problem.key` that were given since the last call."""
        given, self._given = self._given, {}
        return given

    def _prompts(
        self, problems: Sequence[Problem], seeds: Mapping[tuple[str, str], int] | None, stop: Stop
    ) -> TeacherPrompts:
        if not self._config.teacher.reason_first:
            return TeacherPrompts({p.key: self._builder.teacher(p) for p in problems})
        fixed = self._config.teacher.weights == "initial"
        due = {p.key: p for p in problems if not (fixed and p.key in self._known)}
        spent = self._write(list(due.values()), None if fixed else seeds, stop)
        return TeacherPrompts(
            {p.key: self._builder.teacher(p, self._known[p.key]) for p in problems}, spent
        )

    def take_unsaved(self) -> dict[tuple[str, str], str]:
        """Analyses by `Problem.key` that were written since the last call and hold for the run.

        Those of a teacher whose weights change hold for one step alone, and are not among them.
        """
        found, self._unsaved = self._unsaved, {}
        return found if self._config.teacher.weights == "initial" else {}

    def _write(
        self, problems: Sequence[Problem], seeds: Mapping[tuple[str, str], int] | None, stop: Stop
    ) -> TokenLedger:
        """Sample an analysis of each problem's solution; returns the tokens spent."""
        config = self._config
        requests = [
            RolloutRequest(
                problem.id,
                0,
                self._builder.analysis_request(problem).ids,
                derive_seed(config.seed, "analysis", *problem.key)
                if seeds is None
                else derive_seed(seeds[problem.key], "analysis"),
            )
            for problem in problems
        ]
        by_id = {problem.id: problem for problem in problems}
        own = {"max_new_tokens": config.teacher.analysis_tokens, "stop": ()}
        sampling = Sampling(**{**config.sampling.model_dump(), **own})
        spent = TokenLedger(prompt=sum(len(request.prompt_ids) for request in requests))
        if requests:
            self._listener.phase(ANALYSES, len(requests))
        drawn = watched(
            self._policy.generate(requests, sampling, "teacher", config.teacher.weights),
            requests, sampling, self._policy, self._listener,
        )  # fmt: skip
        for rollout in until_stopped(drawn, len(requests), stop):
            ids = [t for t in rollout.completion_ids if t not in self._policy.stop_ids]
            text = after_thinking(self._builder.tokenizer.decode(ids))
            key = by_id[rollout.request.problem_id].key
            self._known[key] = self._unsaved[key] = text
            spent += TokenLedger(generated=len(rollout.completion_ids))
            self._listener.advance()
        return spent
