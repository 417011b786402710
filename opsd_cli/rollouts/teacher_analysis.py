"""The teacher's prompts of a step, with the analyses that it writes first where it is asked to.

Methods ask for the prompts of rollouts, since a reference may depend on the rollout: with
`teacher.reference: sibling` it is another rollout of the question, and with `feedback` what the
grader said of the rollout itself. Any other reference belongs to the problem, and its rollouts
share one prompt.

With `teacher.reason_first` the teacher, given question and reference, first writes an analysis of
the reference in its own words, which is then part of its prompt. A correct but terse solution says
little about why its steps hold; the model's own account may say more, and in the model's own style.
It costs generated tokens, which the ledger counts like any others.

Under initial weights an analysis depends on the problem alone, so it is written once per run. Under
live or averaged weights the teacher changes, so it is written again for each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backends.interface import Policy, RolloutRequest, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.interruption import Stop, never, until_stopped
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import FEEDBACK, OF_ONE_ROLLOUT, SIBLING, Kind, Reference
from opsd_cli.prompts.rendering import Prompt, after_thinking
from opsd_cli.rollouts.contrast import NONE, WRONG_ROLLOUT, other_problem, wrong_rollout
from opsd_cli.rollouts.siblings import feedback_on, sibling_of
from opsd_cli.rollouts.types import GradedRollout, RolloutKey, groups_of
from opsd_cli.rollouts.watching import watched
from opsd_cli.seeds import derive_seed
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import ANALYSES, Listener

#: `teacher.reference` -> the metric that counts the rollouts without such a reference.
MISSING = {SIBLING: "siblings_missing", FEEDBACK: "feedback_missing"}


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


@dataclass(frozen=True)
class RolloutPrompts:
    """The teacher's prompts of some rollouts; a rollout without a reference has none.

    Attributes:
        prompts: by `GradedRollout.key`.
        spent: tokens that writing analyses took.
        metrics: for `metrics.jsonl`.
        contrast: the prompts with a wrong reference, in the same words; None without
            `teacher.contrast`. A rollout without a wrong reference has none.
    """

    prompts: dict[RolloutKey, Prompt]
    spent: TokenLedger = field(default_factory=TokenLedger)
    metrics: dict[str, float] = field(default_factory=dict)
    contrast: dict[RolloutKey, Prompt] | None = None

    def of(self, graded: GradedRollout) -> Prompt | None:
        """The prompt of one of the rollouts; None if it has no reference, or no wrong one."""
        if self.contrast is not None and graded.key not in self.contrast:
            return None
        return self.prompts.get(graded.key)

    def contrast_of(self, graded: GradedRollout) -> Prompt | None:
        """The prompt with a wrong reference, of a rollout that has one."""
        return None if self.contrast is None else self.contrast.get(graded.key)


@dataclass(frozen=True)
class Taught:
    """What the teacher read of one rollout.

    Attributes:
        reference: the text in its prompt.
        own: True if it, or the wrong one, belongs to the rollout and not to its question.
        kind: what the reference is, which chooses the words around it.
        contrast: the prompt with the wrong reference (`teacher.contrast`), where one was read.
    """

    prompt: Prompt
    reference: str
    own: bool = False
    kind: Kind = "solution"
    contrast: Prompt | None = None


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
        self._taught: dict[RolloutKey, Taught | None] = {}

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
            DataError: a problem has no reference.
            Interrupted: `stop` returned True.
        """
        if not self._config.teacher.reason_first:
            return TeacherPrompts({p.key: self._builder.teacher(p) for p in problems})
        fixed = self._config.teacher.weights == "initial"
        due = {p.key: p for p in problems if not (fixed and p.key in self._known)}
        spent = self._write(list(due.values()), None if fixed else seeds, stop)
        return TeacherPrompts(
            {p.key: self._builder.teacher(p, self._known[p.key]) for p in problems}, spent
        )

    def of_rollouts(
        self, rollouts: Sequence[GradedRollout], step: Sequence[GradedRollout]
    ) -> RolloutPrompts:
        """The teacher's prompts of rollouts.

        Args:
            rollouts: those that the teacher is to score.
            step: all graded rollouts of the step, of which siblings are chosen.

        Raises:
            DataError: a problem has no reference, though it belongs to the problem.
        """
        found = self._of_right(rollouts, step)
        return (
            found
            if self._config.teacher.contrast == NONE
            else self._with_wrong(found, rollouts, step)
        )

    def _with_wrong(
        self,
        found: RolloutPrompts,
        rollouts: Sequence[GradedRollout],
        step: Sequence[GradedRollout],
    ) -> RolloutPrompts:
        """The prompts with those that hold a wrong reference (`teacher.contrast`).

        The teacher reads nothing of a rollout that has a right reference and no wrong one.
        """
        of_rollout = self._config.teacher.contrast == WRONG_ROLLOUT
        taught = {g.key: read for g in rollouts if (read := self._taught.get(g.key)) is not None}
        right = {key: Reference(read.reference, read.kind) for key, read in taught.items()}
        contrast: dict[RolloutKey, Prompt] = {}
        for graded in (each for each in rollouts if each.key in right):
            key = graded.key
            wrong = (
                wrong_rollout(graded, step, right[key])
                if of_rollout
                else other_problem(graded, right)
            )
            if wrong is None:
                self._taught[key] = None
                continue
            contrast[key] = self._builder.teacher(graded.problem, reference=wrong)
            self._taught[key] = replace(
                taught[key], own=taught[key].own or of_rollout, contrast=contrast[key]
            )
        metrics = found.metrics | {
            "contrast_missing": (len(right) - len(contrast)) / max(1, len(right)),
            "rollouts_skipped": (len(rollouts) - len(contrast)) / max(1, len(rollouts)),
        }
        return replace(found, metrics=metrics, contrast=contrast)

    def _of_right(
        self, rollouts: Sequence[GradedRollout], step: Sequence[GradedRollout]
    ) -> RolloutPrompts:
        """The prompts with the right reference; arguments as `of_rollouts`."""
        if self._config.teacher.reference in OF_ONE_ROLLOUT:
            return self._of_each(rollouts, step)
        seeds = {graded.problem.key: graded.rollout.request.seed for graded in rollouts}
        found = self.prompts([graded.problem for graded in rollouts], seeds)
        for graded in rollouts:
            reference = self._builder.reference(graded.problem)
            assert reference is not None
            self._taught[graded.key] = Taught(
                found.of(graded.problem), reference.text, kind=reference.kind
            )
        return RolloutPrompts({g.key: found.of(g.problem) for g in rollouts}, found.spent)

    def _of_each(
        self, rollouts: Sequence[GradedRollout], step: Sequence[GradedRollout]
    ) -> RolloutPrompts:
        """The prompts of rollouts with a reference of their own, or with what stands in for it."""
        teacher = self._config.teacher
        groups = {group[0].problem.key: group for group in groups_of(step)}
        rendered: dict[tuple[tuple[str, str], Reference], Prompt] = {}
        prompts: dict[RolloutKey, Prompt] = {}
        missing = 0
        for graded in rollouts:
            key = graded.problem.key
            found = (
                feedback_on(graded)
                if teacher.reference == FEEDBACK
                else sibling_of(graded, groups[key], teacher.sibling)
            )
            missing += found is None
            reference = found or self._builder.reference(graded.problem)
            if reference is None:
                self._taught[graded.key] = None
                continue
            # A question's rollouts have two siblings or three among them, or often the same fault.
            if (key, reference) not in rendered:
                prompt = self._builder.teacher(graded.problem, reference=reference)
                rendered[key, reference] = prompt
            prompts[graded.key] = rendered[key, reference]
            self._taught[graded.key] = Taught(
                prompts[graded.key], reference.text, True, reference.kind
            )
        total = max(1, len(rollouts))
        return RolloutPrompts(
            prompts,
            metrics={
                MISSING[teacher.reference]: missing / total,
                "rollouts_skipped": (len(rollouts) - len(prompts)) / total,
            },
        )

    def take_taught(self) -> dict[RolloutKey, Taught | None]:
        """What the teacher read of each rollout since the last call; None of one without any.

        Rollouts that it was not asked about are not among them.
        """
        taken, self._taught = self._taught, {}
        return taken

    def take_unsaved(self) -> dict[tuple[str, str], str]:
        """Analyses by `Problem.key` that were written since the last call and hold for the run.

        Those of a teacher whose weights change hold for one step alone, and are not among them.
        """
        found, self._unsaved = self._unsaved, {}
        return found if self._config.teacher.weights == "initial" else {}

    def _write(
        self, problems: Sequence[Problem], seeds: Mapping[tuple[str, str], int] | None, stop: Stop
    ) -> TokenLedger:
        """Sample an analysis of each problem's reference; returns the tokens spent."""
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
            self._policy.generate(requests, sampling, "teacher", config.teacher.acting),
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
