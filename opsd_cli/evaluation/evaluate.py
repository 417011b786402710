"""K graded samples per problem: the measurement of preflight, validation and `opsd eval`.

A sample's seed is derived from the run's seed, the problem's set and id, and the sample's index.
Evaluating a part of a set, or a set in another order or in several calls, gives the same samples.
Every sample counts: one that is truncated, has no answer or cannot be graded is wrong, and its
status says which.

Shapes: P problems, K samples per problem.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from backends.interface import Policy, Rollout, RolloutRequest, Sampling, TeacherWeights
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.samples import Evaluation, Sample, assemble, graded
from opsd_cli.grading import Grader, Item
from opsd_cli.grading.flexible import grade_items
from opsd_cli.interruption import Stop, never, until_stopped
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Prompt, completion_text
from opsd_cli.rollouts.watching import watched
from opsd_cli.seeds import derive_seed
from opsd_cli.tracking.listener import Listener

#: Samples that are graded together, to keep the grader's workers busy; after so many seconds fewer
#: are graded, so that a killed evaluation loses few of them.
GRADE_TOGETHER, GRADE_AFTER_SECONDS = 64, 5.0


def evaluation_sampling(config: Config) -> Sampling:
    """The sampling of evaluations, from the config's `evaluation` section."""
    chosen = config.evaluation
    return Sampling(
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        top_k=chosen.top_k,
        min_p=chosen.min_p,
        max_new_tokens=chosen.max_new_tokens or config.sampling.max_new_tokens,
        stop=config.sampling.stop if chosen.stop is None else chosen.stop,
    )


def evaluation_view(config: Config, template: str | None = None) -> Config:
    """The config with the student's prompt as evaluations render it.

    `evaluation.thinking` overrides the prompt's `enable_thinking`, and `evaluation.template` its
    template.

    Args:
        template: the benchmark's own template; it overrides both other templates.
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


class _GradingQueue:
    """Finished rollouts on their way to being samples: graded several at a time.

    Args:
        problems: whose answers are compared.
        samples: (problem id, sample index) -> sample; graded ones are added.
        on_sample: called with each newly graded sample.
        stop: the stop strings of the sampling.
    """

    def __init__(
        self,
        policy: Policy,
        problems: Mapping[str, Problem],
        grader: Grader,
        samples: dict[tuple[str, int], Sample],
        on_sample: Callable[[Sample], None] | None,
        stop: Sequence[str],
    ) -> None:
        self._policy, self._problems, self._stop = policy, problems, stop
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
        texts = [
            completion_text(r.completion_ids, tokenizer, stop_ids, self._stop)
            for r in self._waiting
        ]
        items = [
            Item(self._problems[rollout.request.problem_id], text)
            for rollout, text in zip(self._waiting, texts, strict=True)
        ]
        for text, grades in zip(texts, grade_items(items, self._grader), strict=True):
            # Removed before `on_sample` is called: Ctrl-C in between can lose a sample, which is
            # sampled again on resume, but never write it twice.
            rollout = self._waiting.pop(0)
            sample = Sample(
                problem_id=rollout.request.problem_id,
                sample_index=rollout.request.sample_index,
                completion=text,
                tokens=len(rollout.completion_ids),
                finish_reason=rollout.finish_reason,
                completion_ids=rollout.completion_ids,
                **graded(*grades, text),
            )
            self._samples[sample.problem_id, sample.sample_index] = sample
            if self._on_sample:
                self._on_sample(sample)


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
    teacher: TeacherWeights | None = None,
) -> Evaluation:
    """Sample and grade what is missing of `samples` completions (K) for each problem (P).

    Args:
        name: what to call the set.
        prompt_of: the prompt that a problem is sampled from, as `PromptBuilder.student`.
        on_sample: called with each newly graded sample, in the order of grading.
        done: samples that exist already; they are kept as they are.
        stop: polled after each finished rollout.
        teacher: sample with these weights of the teacher; None samples with the student's.

    Raises:
        Interrupted: `stop` returned True; the samples so far are graded and went to `on_sample`.
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
    queue = _GradingQueue(policy, by_id, grader, have, on_sample, sampling.stop)
    try:
        rollouts = (
            policy.generate(requests, sampling)
            if teacher is None
            else policy.generate(requests, sampling, "teacher", teacher)
        )
        drawn = watched(rollouts, requests, sampling, policy, listener)
        for rollout in until_stopped(drawn, len(requests), stop):
            generated += len(rollout.completion_ids)
            queue.add(rollout)
            listener.advance()
            queue.grade_if_due()
    finally:
        queue.grade()
    read = sum(len(request.prompt_ids) for request in requests)
    return assemble(name, tuple(by_id), have.values(), samples, generated, read)
