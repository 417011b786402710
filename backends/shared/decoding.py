"""A rollout on its way, as both decoding loops keep it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from backends.interface import FinishReason, Rollout, RolloutRequest, Sampling, uniforms
from backends.shared.micro_batches import require_prompt
from opsd_cli.errors import TrainingError


@dataclass
class Row:
    """What was drawn of a request so far; `room` is the most tokens it may have."""

    request: RolloutRequest
    room: int
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @cached_property
    def uniform_N(self) -> np.ndarray:
        """The numbers that its tokens consume, float64 [room]."""
        return uniforms(self.request.seed, self.room)

    def take(self, token: int, log_prob: float, stop_ids: frozenset[int]) -> Rollout | None:
        """Add a token; gives the rollout where it was the last.

        Raises:
            TrainingError: the log-probability is not a number.
        """
        if log_prob != log_prob:
            raise TrainingError(
                f"the model's logits are not numbers (problem {self.request.problem_id})",
                "the weights hold NaN or overflow in this dtype; try train.dtype float32",
            )
        self.ids.append(token)
        self.log_probs.append(log_prob)
        if token in stop_ids:
            return self.rollout("stop")
        return self.rollout("length") if len(self.ids) == self.room else None

    def rollout(self, reason: FinishReason) -> Rollout:
        """What was drawn, finished."""
        return Rollout(
            self.request, tuple(self.ids), np.asarray(self.log_probs, np.float32), reason
        )


def begin(
    requests: Sequence[RolloutRequest], sampling: Sampling, context_limit: int | None
) -> tuple[list[Row], list[Rollout]]:
    """Rows to draw, longest prompt first; and, of no tokens, those whose prompt fills the context.

    Raises:
        ModelError: a prompt has no tokens.
    """
    waiting: list[Row] = []
    full: list[Rollout] = []
    for request in sorted(requests, key=lambda request: -len(request.prompt_ids)):
        require_prompt(request.prompt_ids)
        room = sampling.max_new_tokens
        if context_limit is not None:
            room = min(room, context_limit - len(request.prompt_ids))
        row = Row(request, room)
        if room > 0:
            waiting.append(row)
        else:
            full.append(row.rollout("length"))
    return waiting, full


def next_groups(waiting: deque[Row], free: int, whole: bool) -> list[Row]:
    """The next rows to read, at most `free`; with `whole`, no prompt's samples are parted.

    Samples of one prompt stand side by side, and reading them together reads the prompt once.
    """
    taken: list[Row] = []
    while waiting and len(taken) < free:
        prompt = waiting[0].request.prompt_ids
        group = 0
        while group < len(waiting) and waiting[group].request.prompt_ids == prompt:
            group += 1
        if len(taken) + group > free and (taken or whole):
            break
        taken += [waiting.popleft() for _ in range(min(group, free))]
    return taken
