"""Sampler against trainer: the gap in log-probability, and truncated importance weights.

An engine apart from the trainer may differ from it: it rounds differently, and prefetched rollouts
were sampled with weights one step old. In both cases a token was sampled with another probability
than the trainer gives it. The gap is measured, and can be corrected by truncated importance weights
(arXiv 2210.16480 has them for a sequence of actions; here each token has its own):

    w_n = min(p_trainer(y_n) / p_sampler(y_n), cap)

Both probabilities are those of the sampling distribution, with temperature and filters. A token
that the trainer's filters exclude has probability 0 there, and weight 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backends.interface import Policy
from backends.rollout_engines import get_engine
from opsd_cli.config.schema import Config
from opsd_cli.rollouts.types import GradedRollout, StepRollouts, training_sampling
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener

#: Rollouts of a step on which sampler and trainer are compared where no weights are computed.
COMPARED_ROLLOUTS = 8
#: From this mean gap (nats per token), or this share of tokens outside the trainer's filters, the
#: server is taken to serve another model: rounding and one step of age stay far below both.
FAR_GAP, FAR_OUTSIDE = 0.5, 0.2


def importance_weights(gap_N: np.ndarray, cap: float) -> np.ndarray:
    """Truncated importance weights min(p_trainer / p_sampler, cap), float64 [N].

    Args:
        gap_N: log p_trainer - log p_sampler of each token, in nats.
        cap: at least 1.
    """
    return np.exp(np.minimum(np.asarray(gap_N, np.float64), np.log(cap))).clip(max=cap)


class SamplerComparison:
    """Compares the sampler's log-probabilities with the trainer's, and weighs the tokens.

    Args:
        config: the engine, and `rollouts.importance_cap`.
        policy: the trainer.
        listener: warned once where the two seem to be different models.
    """

    def __init__(self, config: Config, policy: Policy, listener: Listener) -> None:
        self._policy = policy
        self._listener = listener
        self._sampling = training_sampling(config)
        self._cap = config.rollouts.importance_cap
        self._differs = get_engine(config.rollouts.engine).separate_from_trainer
        self._warned = False

    def compare(self, rollouts: StepRollouts) -> StepRollouts:
        """The same rollouts with importance weights, the gap among their metrics, and its cost.

        Rollouts of the trainer's own engine are returned as they are.
        """
        if not self._differs or not rollouts.graded:
            return rollouts
        compared = rollouts.graded if self._cap else rollouts.graded[:COMPARED_ROLLOUTS]
        pairs = [(g.rollout.request.prompt_ids, g.rollout.completion_ids) for g in compared]
        scores = self._policy.score(pairs, sampling=self._sampling)
        gaps = [
            score - graded.rollout.log_probs for score, graded in zip(scores, compared, strict=True)
        ]
        metrics = self._gap_metrics(np.abs(np.concatenate(gaps)))
        self._warn_if_far(metrics)
        graded = rollouts.graded
        if self._cap is not None and any(map(len, gaps)):
            graded, weighed = self._weighed(graded, gaps, self._cap)
            metrics |= weighed
        return replace(
            rollouts,
            graded=graded,
            metrics=metrics | rollouts.metrics,
            spent=rollouts.spent
            + TokenLedger(scored=sum(len(prompt) + len(tokens) for prompt, tokens in pairs)),
        )

    def _gap_metrics(self, gap_N: np.ndarray) -> dict[str, float]:
        """Mean and largest gap in nats, and the share of tokens outside the trainer's filters."""
        metrics: dict[str, float] = {}
        finite_N = gap_N[np.isfinite(gap_N)]
        if len(finite_N):
            metrics["sampler_gap"] = float(finite_N.mean())
            metrics["sampler_gap_max"] = float(finite_N.max())
        if len(gap_N) and self._sampling.filters:
            metrics["sampler_outside"] = 1 - len(finite_N) / len(gap_N)
        return metrics

    @staticmethod
    def _weighed(
        graded: tuple[GradedRollout, ...], gaps: list[np.ndarray], cap: float
    ) -> tuple[tuple[GradedRollout, ...], dict[str, float]]:
        weights = [importance_weights(gap_N, cap) for gap_N in gaps]
        weights_N = np.concatenate(weights)
        weighed = tuple(
            replace(one, importance=tuple(own.tolist()))
            for one, own in zip(graded, weights, strict=True)
        )
        return weighed, {
            "importance": float(weights_N.mean()),
            "importance_capped": float((weights_N == cap).mean()),
        }

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
