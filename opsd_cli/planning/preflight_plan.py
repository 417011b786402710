"""What `opsd train --preflight-only` takes at most: completions and tokens.

It asks the student and the teacher with each source the same problems, and has the teacher score
the student's attempts at them: with each source's reference, and with that of another problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.planning.token_plan import Lengths, planned_lengths
from opsd_cli.problems import Problem
from opsd_cli.prompts.references import OF_ONE_ROLLOUT
from opsd_cli.training.preflight_signal import ATTEMPTS


@dataclass(frozen=True)
class PreflightPlan:
    """Upper bounds; those of scored tokens are for the longest prompts of the problems.

    Attributes:
        problems: that are asked.
        sources: whose references the teacher has.
        completions: of both roles, attempts included.
        completion_tokens_at_most: of these.
        teacher_scored_tokens_at_most: prompts and attempts that the teacher reads.
        scored_tokens_at_most: those that the student reads.
    """

    problems: int
    sources: tuple[str, ...]
    completions: int
    completion_tokens_at_most: int
    teacher_scored_tokens_at_most: int
    scored_tokens_at_most: int

    def as_dict(self) -> dict[str, Any]:
        """As `--dry-run --json` has it."""
        return asdict(self) | {"sources": list(self.sources)}


def preflight_plan(
    config: Config,
    train: Sequence[Problem],
    sources: Sequence[str],
    lengths: Lengths | None = None,
) -> PreflightPlan:
    """What comparing sources takes.

    Args:
        train: the training problems, the first of which are asked.
        sources: the config's own among them.
        lengths: of the prompts; by default as `planned_lengths` gives them for the config's own.
    """
    problems = min(config.preflight.problems, len(train))
    group = methods.get(config).rollouts_per_question()
    attempts = problems * max(ATTEMPTS, group)
    answers = problems * config.evaluation.samples * (1 + len(sources))
    if config.teacher.reference in OF_ONE_ROLLOUT:  # its own preflight has other references
        attempts += problems * group
        answers += problems * config.evaluation.samples
    rollout = config.sampling.max_new_tokens
    lengths = lengths or planned_lengths(config, train[:problems])
    longer = rollout if any(each in OF_ONE_ROLLOUT for each in sources) else 0
    # Each source and its control, and the config's own before them.
    readings = 2 * len(sources) + 1
    return PreflightPlan(
        problems,
        tuple(sources),
        answers + attempts,
        answers * evaluation_sampling(config).max_new_tokens + attempts * rollout,
        attempts * readings * (lengths.teacher + longer + rollout),
        2 * attempts * (lengths.student + rollout),
    )
