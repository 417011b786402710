"""The next step's rollouts, sampled while this step trains (`rollouts.overlap`).

Prefetched rollouts are one step old and never more: a step's rollouts are requested only once those
of the step before are in. A checkpoint holds what was prefetched, so that a resumed run uses it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from backends.interface import Policy, Prefetches, Rollout, Sampling
from opsd_cli.problems import Problem
from opsd_cli.processes.waiting import result_of
from opsd_cli.rollouts.types import StepRequests, sampled_tokens
from opsd_cli.rollouts.watching import BackgroundWatch, observed
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener

#: Seconds between two reports while a step waits for its rollouts.
REPORT_SECONDS = 0.25


@dataclass(frozen=True)
class Prefetched:
    """Rollouts of a later step, and the wall-clock seconds of sampling them.

    `seconds` is None where a checkpoint holds them. The time is kept with the rollouts since a
    callback of a future may run after its result was read.
    """

    rollouts: list[Rollout]
    seconds: float | None


class Prefetcher:
    """Holds the prefetched rollouts of at most one step.

    Args:
        policy: where `start` is used, one that implements `Prefetches`.
        requests: the run's rollout requests.
        sampling: of training rollouts.
    """

    def __init__(self, policy: Policy, requests: StepRequests, sampling: Sampling) -> None:
        self._policy = policy
        self._requests = requests
        self._sampling = sampling
        self._held: tuple[int, Future[Prefetched]] | None = None
        self._watch: BackgroundWatch | None = None

    def start(self, questions: Sequence[Problem], step: int) -> None:
        """Sample the rollouts of a later step in the background, with the weights as they are."""
        requests = self._requests.of(questions, step)
        if requests:
            started = time.perf_counter()
            self._watch = BackgroundWatch(len(requests))
            with observed(self._policy, self._watch):  # kept by the prefetch that begins here
                drawing = cast(Prefetches, self._policy).prefetch(requests, self._sampling)
            self._held = (step, _timed(drawing, started))

    def wait(self, step: int, listener: Listener | None = None) -> Prefetched | None:
        """The rollouts of a step once they are in; None where none were prefetched for it.

        Args:
            listener: receives their progress meanwhile, from the thread that waits.
        """
        if self._held is None or self._held[0] != step:
            return None
        while listener is not None and self._watch is not None and not self._held[1].done():
            self._watch.tell(listener)
            wait([self._held[1]], REPORT_SECONDS)
        return result_of(self._held[1])

    def release(self, step: int) -> None:
        """Forget the rollouts of a step that has collected them."""
        if self._held is not None and self._held[0] == step:
            self._held = None

    def discard(self) -> TokenLedger:
        """Forget rollouts that no step will use; returns the tokens they took."""
        if self._held is None:
            return TokenLedger()
        prefetched, self._held = result_of(self._held[1]), None
        return sampled_tokens(prefetched.rollouts)

    def state(self) -> dict[str, Any] | None:
        """The rollouts, once they are in, as JSON can hold them.

        None where sampling failed: the step that needs them raises the error, and the steps before
        it keep their checkpoint.
        """
        if self._held is None or self._held[1].exception() is not None:
            return None
        step, drawing = self._held
        rows = [
            {
                "problem_id": rollout.request.problem_id,
                "sample_index": rollout.request.sample_index,
                "completion_ids": list(rollout.completion_ids),
                "log_probs": [float(number) for number in rollout.log_probs],
                "finish_reason": rollout.finish_reason,
            }
            for rollout in drawing.result().rollouts
        ]
        return {"step": step, "rollouts": rows}

    def restore(self, state: dict[str, Any], questions: Sequence[Problem]) -> None:
        """Hold what `state` returned.

        Args:
            questions: those of the step that `state` names.
        """
        step = state["step"]
        asked = {(r.problem_id, r.sample_index): r for r in self._requests.of(questions, step)}
        rollouts = [
            Rollout(
                asked[row["problem_id"], row["sample_index"]],
                tuple(row["completion_ids"]),
                np.asarray(row["log_probs"], np.float32),
                row["finish_reason"],
            )
            for row in state["rollouts"]
        ]
        drawing: Future[Prefetched] = Future()
        drawing.set_result(Prefetched(rollouts, None))
        self._held = (step, drawing)


def _timed(drawing: Future[list[Rollout]], started: float) -> Future[Prefetched]:
    """The same rollouts with the time from `started` until they were in."""
    timed: Future[Prefetched] = Future()

    def finished(done: Future[list[Rollout]]) -> None:
        seconds = time.perf_counter() - started
        try:
            timed.set_result(Prefetched(done.result(), seconds))
        except BaseException as error:  # raised where the rollouts are waited for
            timed.set_exception(error)

    drawing.add_done_callback(finished)
    return timed
