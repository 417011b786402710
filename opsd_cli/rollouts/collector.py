"""A step's rollouts: sampled, graded, and replaced if a group has zero variance.

Prefetched rollouts (`opsd_cli.rollouts.prefetch`) are taken where there are any. How far the
sampler is from the trainer is measured afterwards (`opsd_cli.rollouts.importance`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from backends.interface import Policy, Rollout, RolloutRequest
from opsd_cli.config.schema import Config
from opsd_cli.grading import Grader, Item
from opsd_cli.interruption import Stop, never, until_stopped
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import completion_text
from opsd_cli.rollouts.prefetch import Prefetcher
from opsd_cli.rollouts.types import (
    GradedRollout,
    GroupSampling,
    StepRequests,
    StepRollouts,
    groups_of,
    training_sampling,
)
from opsd_cli.rollouts.watching import watched
from opsd_cli.seeds import derive_seed
from opsd_cli.tracking.listener import ROLLOUTS, Listener


class RolloutCollector:
    """Collects the rollouts of a run's steps.

    Args:
        config: the run.
        policy: samples the rollouts.
        method: the group size, and which groups have a signal.
        requests: the run's rollout requests.
        prefetcher: rollouts that were sampled before their step.
        train: the training problems, from which replacements come.
        stop: polled after each finished rollout; the step being collected is then discarded.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        method: GroupSampling,
        requests: StepRequests,
        prefetcher: Prefetcher,
        train: Sequence[Problem],
        grader: Grader,
        listener: Listener,
        stop: Stop = never,
    ) -> None:
        self._config = config
        self._policy = policy
        self._method = method
        self._requests = requests
        self._prefetcher = prefetcher
        self._train = train
        self._grader = grader
        self._listener = listener
        self._stop = stop
        self._sampling = training_sampling(config)

    def collect(self, questions: Sequence[Problem], step: int) -> StepRollouts:
        """The rollouts of a step, counted from 1.

        Where the method resamples, questions of zero-variance groups are replaced by others that
        are chosen at random by the run's seed, the step and the round alone, so that a resumed run
        chooses the same.

        Raises:
            Interrupted: `stop` returned True. Rollouts that were prefetched for this step are kept.
        """
        requests = self._requests.of(questions, step)
        self._listener.phase(ROLLOUTS, len(requests))
        started = time.perf_counter()
        prefetched = self._prefetcher.wait(step, self._listener)
        sampling = (
            self._policy.generate(requests, self._sampling)
            if prefetched is None
            else iter(prefetched.rollouts)
        )
        kept = groups_of(self._graded(self._finished(sampling, requests), questions))
        seconds = time.perf_counter() - started if prefetched is None else prefetched.seconds
        started = time.perf_counter()
        replaced = self._resample(kept, questions, step)
        if seconds is not None:
            seconds += time.perf_counter() - started
        self._prefetcher.release(step)
        overlap = self._config.rollouts.overlap
        return StepRollouts(
            graded=tuple(one for group in kept for one in group),
            replaced=tuple(replaced),
            metrics={"staleness": float(prefetched is not None)} if overlap else {},
            seconds=seconds,
        )

    def _resample(
        self, kept: list[list[GradedRollout]], questions: Sequence[Problem], step: int
    ) -> list[GradedRollout]:
        """Replace zero-variance groups in `kept`, round by round; returns the replaced rollouts."""
        replaced: list[GradedRollout] = []
        used = {problem.key for problem in questions}
        for attempt in range(1, self._method.resampling_rounds() + 1):
            places = [p for p, group in enumerate(kept) if not self._method.has_signal(group)]
            fresh = self._replacements(len(places), step, attempt, used)
            if not fresh:
                break
            used.update(problem.key for problem in fresh)
            requests = self._requests.of(fresh, step, attempt)
            self._listener.phase(ROLLOUTS, len(requests))
            sampling = self._policy.generate(requests, self._sampling)
            groups = groups_of(self._graded(self._finished(sampling, requests), fresh))
            for place, group in zip(places, groups, strict=False):
                replaced += kept[place]
                kept[place] = group
        return replaced

    def _replacements(
        self, count: int, step: int, attempt: int, used: set[tuple[str, str]]
    ) -> list[Problem]:
        """At most `count` training problems that the step has not used yet."""
        seed = derive_seed(self._config.seed, "resample", step, attempt)
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(self._train))
        candidates = (self._train[place] for place in order)
        return list(islice((p for p in candidates if p.key not in used), count))

    def _finished(
        self, sampling: Iterator[Rollout], requests: Sequence[RolloutRequest]
    ) -> list[Rollout]:
        """The rollouts in the order of their requests, once all have finished."""
        finished: dict[tuple[str, int], Rollout] = {}
        drawn = watched(sampling, requests, self._sampling, self._policy, self._listener)
        for rollout in until_stopped(drawn, len(requests), self._stop):
            finished[rollout.request.problem_id, rollout.request.sample_index] = rollout
            self._listener.advance()
        return [finished[request.problem_id, request.sample_index] for request in requests]

    def _graded(
        self, rollouts: Sequence[Rollout], questions: Sequence[Problem]
    ) -> list[GradedRollout]:
        problems = {problem.id: problem for problem in questions}
        tokenizer, stop_ids = self._policy.tokenizer, self._policy.stop_ids
        stop = self._sampling.stop
        texts = [completion_text(r.completion_ids, tokenizer, stop_ids, stop) for r in rollouts]
        asked = [problems[r.request.problem_id] for r in rollouts]
        grades = self._grader.grade([Item(p, text) for p, text in zip(asked, texts, strict=True)])
        return [
            GradedRollout(
                rollout, problem, text, grade.verdict,
                score=grade.score, feedback=grade.feedback, numeric=grade.numeric,
                ungraded=grade.ungraded,
            )
            for rollout, problem, text, grade in zip(rollouts, asked, texts, grades, strict=True)
        ]  # fmt: skip
