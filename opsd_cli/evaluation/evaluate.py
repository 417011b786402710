"""k samples a problem, graded: the one measurement behind preflight, validation and `opsd eval`.

A sample's seed comes from the run's seed, the problem's set and id and the sample's index, so a set
evaluated in part, in another order or again later draws the same samples. Every sample counts:
a truncated, unanswered or ungradable one is wrong, and says which it was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from backends.interface import Policy, Rollout, RolloutRequest, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.errors import RunError
from opsd_cli.grading import Grade, Grader
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Prompt, completion_text
from opsd_cli.seeds import derive_seed
from opsd_cli.statistics import Estimate, average_at_k, majority_at_k, pass_at_k
from opsd_cli.stopping import Stop, never, until_stopped
from opsd_cli.tracking.listener import Listener

#: Graded together, so that the grader stays busy; sooner where rollouts are slow, so that a killed
#: evaluation loses little.
GRADE_TOGETHER, GRADE_AFTER_SECONDS = 64, 5.0
_RIGHT = "\N{CHECK MARK}"


def evaluation_sampling(config: Config) -> Sampling:
    """How accuracy is measured."""
    chosen = config.evaluation
    return Sampling(
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        top_k=chosen.top_k,
        min_p=chosen.min_p,
        max_new_tokens=chosen.max_new_tokens or config.sampling.max_new_tokens,
    )


def evaluation_view(config: Config, template: str | None = None) -> Config:
    """The config with the student's prompt as evaluations render it.

    `evaluation.thinking` overrides the prompt's own flag, `evaluation.template` its wording, and a
    benchmark's own template both wordings.
    """
    student = config.prompts.student
    changes: dict[str, Any] = {}
    if config.evaluation.thinking is not None:
        flag = {"enable_thinking": config.evaluation.thinking}
        changes["chat_arguments"] = {**student.chat_arguments, **flag}
    template = template or config.evaluation.template
    if template is not None:
        changes["template"] = template
    student = student.model_copy(update=changes)
    prompts = config.prompts.model_copy(update={"student": student})
    return config.model_copy(update={"prompts": prompts})


@dataclass(frozen=True)
class Sample:
    """One graded completion, a line of `samples.jsonl`."""

    problem_id: str
    sample_index: int
    completion: str
    tokens: int
    finish_reason: str
    answer: str | None
    status: str
    correct: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """All samples of a set, problem by problem, and what follows from them.

    `generated` and `prompt_tokens` count only what this call drew, not samples handed to it.
    `votes` are the clusters of answers for each problem's majority (see `with_votes`).
    """

    name: str
    problem_ids: tuple[str, ...]
    samples_per_problem: int
    samples: tuple[Sample, ...]
    generated: int
    prompt_tokens: int
    votes: tuple[tuple[Hashable | None, ...], ...] | None = None

    @property
    def _grid(self) -> list[tuple[Sample, ...]]:
        k = self.samples_per_problem
        return [self.samples[start : start + k] for start in range(0, len(self.samples), k)]

    @property
    def correct_PK(self) -> np.ndarray:
        """Booleans [problems, samples]."""
        return np.array([[sample.correct for sample in row] for row in self._grid])

    @property
    def accuracy(self) -> Estimate:
        """avg@k with its interval clustered by problem."""
        return average_at_k(self.correct_PK, problem_ids=self.problem_ids)

    @property
    def all_tokens(self) -> int:
        """Tokens of all samples, whichever process drew them."""
        return sum(sample.tokens for sample in self.samples)

    @property
    def pass_at(self) -> dict[int, Estimate]:
        """pass@1, 2, 4, ... up to k, and k."""
        k = self.samples_per_problem
        powers = {1 << n for n in range(k.bit_length()) if 1 << n <= k} | {k}
        return {n: pass_at_k(self.correct_PK, n) for n in sorted(powers)}

    @property
    def majority(self) -> Estimate:
        """maj@k. Correct samples vote as one; wrong ones by `votes`, else by spelling."""
        keys = self.votes or [[_vote(sample) for sample in row] for row in self._grid]
        return majority_at_k(self.correct_PK, keys)

    def with_votes(self, grader: Grader) -> Evaluation:
        """The same, its wrong answers clustered by what they mean rather than how they are spelt.

        A sample that gave no answer, or one that cannot be compared, votes for nothing.
        """
        from opsd_cli.grading.clusters import clusters

        wrong = [
            [sample.answer if sample.status == "wrong" else None for sample in row]
            for row in self._grid
        ]
        votes = tuple(
            tuple(
                _RIGHT if sample.correct else number
                for sample, number in zip(row, numbers, strict=True)
            )
            for row, numbers in zip(self._grid, clusters(wrong, grader), strict=True)
        )
        return replace(self, votes=votes)

    def share(self, predicate: Callable[[Sample], bool]) -> float:
        return sum(map(predicate, self.samples)) / len(self.samples)

    @property
    def truncated(self) -> float:
        """Share of samples that hit the length limit."""
        return self.share(lambda sample: sample.finish_reason == "length")

    @property
    def no_answer(self) -> float:
        """Share of samples without an extractable answer."""
        return self.share(lambda sample: sample.status == "no_answer")

    @property
    def mean_tokens(self) -> float:
        """Mean completion length in tokens."""
        return sum(sample.tokens for sample in self.samples) / len(self.samples)

    def token_statistics(self) -> dict[str, float | None]:
        """Completion lengths in tokens: over all, and over right and wrong samples apart."""
        lengths = np.array([sample.tokens for sample in self.samples])
        return {
            "mean": self.mean_tokens,
            "median": float(np.median(lengths)),
            "p90": float(np.quantile(lengths, 0.9)),
            "max": int(lengths.max()),
            "total": int(lengths.sum()),
            "mean_of_right": _mean(s.tokens for s in self.samples if s.correct),
            "mean_of_wrong": _mean(s.tokens for s in self.samples if not s.correct),
        }

    def as_dict(self) -> dict[str, Any]:
        """The summary, as in `results.json`."""
        return {
            "benchmark": self.name,
            "problems": len(self.problem_ids),
            "samples": self.samples_per_problem,
            "accuracy": self.accuracy.as_dict(),
            "pass_at": {str(k): value.as_dict() for k, value in self.pass_at.items()},
            "majority": self.majority.as_dict(),
            "truncated": self.truncated,
            "no_answer": self.no_answer,
            "mean_tokens": self.mean_tokens,
            "tokens": self.token_statistics(),
            "statuses": dict(Counter(sample.status for sample in self.samples)),
        }


def _vote(sample: Sample) -> str | None:
    if sample.correct:
        return _RIGHT
    return sample.answer if sample.status == "wrong" else None


def _mean(numbers: Iterable[int]) -> float | None:
    found = list(numbers)
    return sum(found) / len(found) if found else None


def assemble(
    name: str,
    problem_ids: Sequence[str],
    samples: Collection[Sample],
    k: int,
    generated: int = 0,
    prompt_tokens: int = 0,
) -> Evaluation:
    """An evaluation of exactly k samples a problem.

    Raises:
        RunError: a sample is missing. Fewer are never averaged in their place.
    """
    have = {(sample.problem_id, sample.sample_index): sample for sample in samples}
    wanted = [(problem_id, index) for problem_id in problem_ids for index in range(k)]
    missing = [key for key in wanted if key not in have]
    if missing:
        problem_id, index = missing[0]
        raise RunError(
            f"{name} lacks {len(missing):,} of {len(wanted):,} samples, the first is "
            f"number {index} of problem {problem_id!r}",
            "go on with the evaluation: --resume",
        )
    ordered = tuple(have[key] for key in wanted)
    return Evaluation(name, tuple(problem_ids), k, ordered, generated, prompt_tokens)


class _GradingQueue:
    """Finished rollouts on their way to being samples: graded several at a time.

    Args:
        problems: whose answers are compared.
        samples: (problem id, sample index) -> sample; graded ones are added.
        on_sample: called with each newly graded sample.
    """

    def __init__(
        self,
        policy: Policy,
        problems: Mapping[str, Problem],
        grader: Grader,
        samples: dict[tuple[str, int], Sample],
        on_sample: Callable[[Sample], None] | None,
    ) -> None:
        self._policy, self._problems = policy, problems
        self._grader, self._samples, self._on_sample = grader, samples, on_sample
        self._waiting: list[Rollout] = []
        self._graded_at = time.monotonic()

    def add(self, rollout: Rollout) -> None:
        """Take one more."""
        self._waiting.append(rollout)

    def grade_if_due(self) -> None:
        """Grade all that wait once enough have come together, or enough time has passed."""
        late = time.monotonic() - self._graded_at >= GRADE_AFTER_SECONDS
        if late or len(self._waiting) >= GRADE_TOGETHER:
            self.grade()
            self._graded_at = time.monotonic()

    def grade(self) -> None:
        """Grade all that wait."""
        stop_ids, tokenizer = self._policy.stop_ids, self._policy.tokenizer
        texts = [completion_text(r.completion_ids, tokenizer, stop_ids) for r in self._waiting]
        golds = [self._problems[r.request.problem_id].answer or "" for r in self._waiting]
        grades = self._grader.grade_many(list(zip(golds, texts, strict=True)))
        for text, grade in zip(texts, grades, strict=True):
            # It leaves before it is handed on: Ctrl-C in between loses it, and never doubles it.
            sample = _sample(self._waiting.pop(0), text, grade)
            self._samples[sample.problem_id, sample.sample_index] = sample
            if self._on_sample:
                self._on_sample(sample)


def _sample(rollout: Rollout, text: str, grade: Grade) -> Sample:
    return Sample(
        problem_id=rollout.request.problem_id,
        sample_index=rollout.request.sample_index,
        completion=text,
        tokens=len(rollout.completion_ids),
        finish_reason=rollout.finish_reason,
        answer=grade.answer,
        status=grade.status,
        correct=grade.correct,
    )


def evaluate(
    policy: Policy,
    name: str,
    problems: Sequence[Problem],
    prompt_of: Callable[[Problem], Prompt],
    sampling: Sampling,
    *,
    samples: int,
    seed: int,
    grader: Grader,
    listener: Listener | None = None,
    on_sample: Callable[[Sample], None] | None = None,
    done: Collection[Sample] = (),
    stop: Stop = never,
) -> Evaluation:
    """Draw and grade what is missing of `samples` completions (K) for each problem (P).

    Args:
        name: what to call the set.
        prompt_of: the prompt that a problem is sampled from, as `PromptBuilder.student`.
        on_sample: called with each newly graded sample, in the order of grading.
        done: samples already at hand; they are kept as they are.
        stop: polled after each finished rollout.

    Raises:
        Interrupted: `stop` said so; what was drawn by then is graded and went to `on_sample`.
    """
    listener = listener or Listener()
    by_id = {problem.id: problem for problem in problems}
    have = {(sample.problem_id, sample.sample_index): sample for sample in done}
    requests = [
        RolloutRequest(
            p.id, index, prompt_of(p).ids, derive_seed(seed, "evaluation", *p.key, index)
        )
        for p in problems
        for index in range(samples)
        if (p.id, index) not in have
    ]
    generated = 0
    queue = _GradingQueue(policy, by_id, grader, have, on_sample)
    try:
        for rollout in until_stopped(policy.generate(requests, sampling), len(requests), stop):
            generated += len(rollout.completion_ids)
            queue.add(rollout)
            listener.advance()
            queue.grade_if_due()
    finally:
        queue.grade()
    read = sum(len(request.prompt_ids) for request in requests)
    return assemble(name, tuple(by_id), have.values(), samples, generated, read)
