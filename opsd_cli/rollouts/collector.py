"""A step's rollouts: asked for, graded, and compared with the weights that will learn from them.

An engine of its own may differ from the trainer, in how it rounds and, where rollouts of the next
step are drawn while this one is learnt, in that its weights are one step old. Both are the same
thing to the numbers: a token was drawn with another probability than the trainer gives it. The gap
is measured, and can be corrected by truncated importance weights (arXiv 2210.16480 has them for a
sequence of actions; each token by itself here):

    w_n = min(p_trainer(y_n) / p_sampler(y_n), cap)

Both probabilities are those with which a token is drawn, temperature and filters included; a token
that the trainer's filters keep out has none, and its weight is 0.

Staleness is bounded by one step, since a step's rollouts are asked for only once those of the step
before are in. A checkpoint takes along what was drawn ahead, so that a resumed run goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import numpy as np

from backends.engines import get_engine
from backends.interface import Policy, Prefetches, Rollout, RolloutRequest, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.grading import Grader
from opsd_cli.methods import GradedRollout, Method, groups_of
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import completion_text
from opsd_cli.seeds import derive_seed
from opsd_cli.stopping import Stop, never, until_stopped
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener

#: Rollouts of a step on which the sampler is compared with the trainer.
GAP_ROLLOUTS = 8
#: Nats a token, and share of tokens that its filters would have kept out, from which on the trainer
#: is taken to have another model than the sampler: rounding and a step's age are far from both.
FAR_GAP, FAR_OUTSIDE = 0.5, 0.2


def training_sampling(config: Config) -> Sampling:
    """How training rollouts are drawn."""
    return Sampling(**config.sampling.model_dump())


@dataclass(frozen=True)
class StepRollouts:
    """A step's rollouts.

    Attributes:
        graded: what to learn from, grouped by question.
        replaced: what gave way to it, because it teaches nothing.
        metrics: what `metrics.jsonl` says of the drawing.
        spent: tokens that comparing sampler and trainer took.
        seconds: how long drawing took, beside whatever else went on; None where a checkpoint
            brought the rollouts.
    """

    graded: list[GradedRollout]
    replaced: list[GradedRollout]
    metrics: dict[str, float]
    spent: TokenLedger
    seconds: float | None

    @property
    def everything(self) -> list[GradedRollout]:
        """All that was drawn and paid for."""
        return self.graded + self.replaced

    @property
    def share_right(self) -> float | None:
        """Share of the rollouts that are right; None where the method draws none."""
        if not self.everything:
            return None
        return float(np.mean([graded.correct for graded in self.everything]))


class RolloutCollector:
    """Draws the rollouts of one run.

    Args:
        config: the run.
        policy: draws, and says how likely it finds what was drawn.
        method: says how many completions a question gets, and which are worth learning from.
        train: the training problems.
        stop: polled after each finished rollout; the step that is being drawn is then given up.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        method: Method,
        contexts: PromptBuilder,
        train: Sequence[Problem],
        grader: Grader,
        listener: Listener,
        stop: Stop = never,
    ) -> None:
        self._config = config
        self._policy = policy
        self._method = method
        self._contexts = contexts
        self._train = train
        self._grader = grader
        self._listener = listener
        self._stop = stop
        self._sampling = training_sampling(config)
        self._ahead: tuple[int, Future[Prefetched]] | None = None
        self._warned = False

    def step(self, questions: Sequence[Problem], step: int) -> StepRollouts:
        """This step's rollouts.

        Where the method asks for it, questions whose rollouts teach nothing give way to others,
        drawn at random for this step and round alone, so that a resumed run draws the same.

        Raises:
            Interrupted: `stop` said so. What was drawn ahead for this step is still at hand.
        """
        started = time.perf_counter()
        stale = self._ahead is not None and self._ahead[0] == step
        kept = groups_of(self._draw(questions, step, 0))
        replaced: list[GradedRollout] = []
        met = {problem.key for problem in questions}
        for attempt in range(1, self._method.resampling_rounds() + 1):
            dull = [place for place, group in enumerate(kept) if not self._method.has_signal(group)]
            seed = derive_seed(self._config.seed, "resample", step, attempt)
            order = np.random.Generator(np.random.Philox(seed)).permutation(len(self._train))
            candidates = (self._train[place] for place in order)
            fresh = list(islice((p for p in candidates if p.key not in met), len(dull)))
            if not fresh:
                break
            met.update(problem.key for problem in fresh)
            for place, group in zip(
                dull, groups_of(self._draw(fresh, step, attempt)), strict=False
            ):
                replaced += kept[place]
                kept[place] = group
        seconds: float | None = time.perf_counter() - started
        if stale and self._ahead is not None:
            seconds, self._ahead = self._ahead[1].result().seconds, None
        graded = [one for group in kept for one in group]
        graded, metrics, spent = self._against_trainer(graded)
        if self._config.rollouts.overlap:
            metrics["staleness"] = float(stale)
        return StepRollouts(graded, replaced, metrics, spent, seconds)

    # -- ahead ---------------------------------------------------------------------------------

    def ahead(self, questions: Sequence[Problem], step: int) -> None:
        """Let the rollouts of a later step be drawn, with the weights as they are now."""
        requests = self._requests(questions, step, 0)
        if requests:
            started = time.perf_counter()
            drawing = cast(Prefetches, self._policy).prefetch(requests, self._sampling)
            self._ahead = (step, _timed(drawing, started))

    def state(self) -> dict[str, Any] | None:
        """What was drawn ahead, once it is in, as JSON can hold it.

        None where drawing it failed: the step that needs it says so, and the steps before it keep
        their checkpoint.
        """
        if self._ahead is None or self._ahead[1].exception() is not None:
            return None
        step, drawing = self._ahead
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
        """Go on with what `state` gave; `questions` are those of the step it names."""
        step = state["step"]
        asked = {(r.problem_id, r.sample_index): r for r in self._requests(questions, step, 0)}
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
        self._ahead = (step, drawing)

    def discarded(self) -> TokenLedger:
        """Drop what was drawn ahead, and say what it cost."""
        if self._ahead is None:
            return TokenLedger()
        drawn, self._ahead = self._ahead[1].result(), None
        return cost_of(drawn.rollouts)

    # -- drawing -------------------------------------------------------------------------------

    def _requests(
        self, questions: Sequence[Problem], step: int, attempt: int
    ) -> list[RolloutRequest]:
        return [
            RolloutRequest(
                problem_id=problem.id,
                sample_index=index,
                prompt_ids=self._contexts.student(problem).ids,
                seed=derive_seed(self._config.seed, "rollout", step, *problem.key, index, attempt),
            )
            for problem in questions
            for index in range(self._method.rollouts_per_question())
        ]

    def _draw(self, questions: Sequence[Problem], step: int, attempt: int) -> list[GradedRollout]:
        """Completions of each question, graded, in the order of the questions."""
        requests = self._requests(questions, step, attempt)
        self._listener.phase("rollouts", len(requests))
        if attempt == 0 and self._ahead is not None and self._ahead[0] == step:
            finished = iter(self._ahead[1].result().rollouts)
        else:
            finished = self._policy.generate(requests, self._sampling)
        drawn = {}
        for rollout in until_stopped(finished, len(requests), self._stop):
            drawn[rollout.request.problem_id, rollout.request.sample_index] = rollout
            self._listener.advance()
        ordered = [drawn[request.problem_id, request.sample_index] for request in requests]
        by_id = {problem.id: problem for problem in questions}
        tokenizer, ends = self._contexts.tokenizer, self._policy.stop_ids
        texts = [completion_text(rollout.completion_ids, tokenizer, ends) for rollout in ordered]
        golds = [by_id[rollout.request.problem_id].answer or "" for rollout in ordered]
        grades = self._grader.grade_many(list(zip(golds, texts, strict=True)))
        return [
            GradedRollout(rollout, by_id[rollout.request.problem_id], text, grade.correct)
            for rollout, text, grade in zip(ordered, texts, grades, strict=True)
        ]

    # -- sampler and trainer -------------------------------------------------------------------

    def _against_trainer(
        self, graded: list[GradedRollout]
    ) -> tuple[list[GradedRollout], dict[str, float], TokenLedger]:
        """The rollouts with their importance, what was measured, and what it cost.

        Only another engine can differ.
        """
        config = self._config
        if not get_engine(config.rollouts.engine).separate_from_trainer or not graded:
            return graded, {}, TokenLedger()
        cap = config.rollouts.importance_cap
        some = [one.rollout for one in (graded if cap else graded[:GAP_ROLLOUTS])]
        pairs = [(rollout.request.prompt_ids, rollout.completion_ids) for rollout in some]
        scores = self._policy.score(pairs, sampling=self._sampling)
        gaps = [score - rollout.log_probs for score, rollout in zip(scores, some, strict=True)]
        spent = TokenLedger(scored=sum(len(prompt) + len(tokens) for prompt, tokens in pairs))
        gap_N = np.abs(np.concatenate(gaps))
        metrics: dict[str, float] = {}
        shared_N = gap_N[np.isfinite(gap_N)]
        if len(shared_N):
            metrics["sampler_gap"] = float(shared_N.mean())
            metrics["sampler_gap_max"] = float(shared_N.max())
        if len(gap_N) and self._sampling.filters:
            metrics["sampler_outside"] = 1 - len(shared_N) / len(gap_N)
        self._warn_if_far(metrics)
        if cap is None or not len(gap_N):
            return graded, metrics, spent
        weights = [importance_weights(gap, cap) for gap in gaps]
        weights_N = np.concatenate(weights)
        metrics["importance"] = float(weights_N.mean())
        metrics["importance_capped"] = float((weights_N == cap).mean())
        weighed = [
            replace(one, importance=tuple(own.tolist()))
            for one, own in zip(graded, weights, strict=True)
        ]
        return weighed, metrics, spent

    def _warn_if_far(self, metrics: dict[str, float]) -> None:
        gap, outside = (metrics.get(f"sampler_{name}", 0.0) for name in ("gap", "outside"))
        if self._warned or (gap < FAR_GAP and outside < FAR_OUTSIDE):
            return
        self._warned = True
        self._listener.warn(
            "vLLM draws from another distribution than the trainer's "
            f"({gap:.2f} nats a token apart, {outside:.0%} of tokens outside its filters): compare "
            "the server's model and dtype with this run's, and start it with "
            "--logprobs-mode processed_logprobs"
        )


@dataclass(frozen=True)
class Prefetched:
    """Rollouts of a later step, and how long drawing them took; None where a checkpoint has them.

    The time travels with the rollouts: a callback of the future may run after its result is read.
    """

    rollouts: list[Rollout]
    seconds: float | None


def _timed(drawing: Future[list[Rollout]], started: float) -> Future[Prefetched]:
    """The same rollouts, with the time that passed from `started` until they were in."""
    timed: Future[Prefetched] = Future()

    def finished(done: Future[list[Rollout]]) -> None:
        seconds = time.perf_counter() - started
        try:
            timed.set_result(Prefetched(done.result(), seconds))
        except BaseException as error:  # it belongs to whoever waits for the rollouts
            timed.set_exception(error)

    drawing.add_done_callback(finished)
    return timed


def importance_weights(gap_N: np.ndarray, cap: float) -> np.ndarray:
    """min(p_trainer / p_sampler, cap) of each token, float64 [N].

    Args:
        gap_N: log p_trainer - log p_sampler.
        cap: at least 1.
    """
    return np.exp(np.minimum(np.asarray(gap_N, np.float64), np.log(cap))).clip(max=cap)


def cost_of(rollouts: Sequence[Rollout]) -> TokenLedger:
    """The tokens that drawing took."""
    return TokenLedger(
        generated=sum(len(rollout.completion_ids) for rollout in rollouts),
        prompt=sum(len(rollout.request.prompt_ids) for rollout in rollouts),
        rollouts=len(rollouts),
    )
