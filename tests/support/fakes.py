"""Stand in for a backend and its policy: no model, sums answered right with a set probability."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backends.interface import (
    PLAIN,
    BatchReport,
    Capability,
    LossBatch,
    Memory,
    PolicyGradientBatch,
    Rollout,
    RolloutRequest,
    Sampling,
    TeacherWeights,
    TokenReport,
    uniforms,
)
from backends.pytorch.traits import CPU
from opsd_cli.config.schema import Config
from opsd_cli.prompts.rendering import Tokenizer
from opsd_cli.tracking.listener import Listener, StepRow
from tests.support.small_tokenizers import CharacterTokenizer

STOP = 1  # <|im_end|>


class FakePolicy:
    """Implements `Policy` for questions "A + B"; two policies of equal arguments behave the same.

    Args:
        skill: probability of a right answer under the student's prompt.
        taught: the same under a prompt with " begins]", which is the teacher's: its reference
            follows.
        gain: what each optimizer step adds to `skill`.

    Attributes:
        drawn: every request so far, in the order of sampling.
    """

    tokenizer: Tokenizer = CharacterTokenizer()
    description = "a fake"
    parameter_count = 1
    stop_ids = frozenset([STOP])
    context_limit: int | None = None

    def __init__(self, skill: float = 0.5, taught: float = 1.0, gain: float = 0.1) -> None:
        self.skill, self.taught, self.gain = skill, taught, gain
        self._read: list[LossBatch] = []
        self.drawn: list[RolloutRequest] = []

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        for request in reversed(requests):  # like a real engine, in another order than requested
            self.drawn.append(request)
            prompt = self.tokenizer.decode(request.prompt_ids)
            skill = self.taught if " begins]" in prompt else self.skill
            found = re.search(r"(\d+) \+ (\d+)", prompt)
            total = int(found[1]) + int(found[2]) if found else 0
            right = uniforms(request.seed, 1)[0] < skill
            text = f"\\boxed{{{total if right else total + 1}}}<|im_end|>"
            ids = tuple(self.tokenizer.encode(text))[: sampling.max_new_tokens]
            stopped = ids[-1] == STOP
            yield Rollout(
                request, ids, np.zeros(len(ids), np.float32), "stop" if stopped else "length"
            )

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        return [np.zeros(len(completion), np.float32) for _, completion in sequences]

    def measure(self, batch: LossBatch) -> BatchReport:
        if isinstance(batch, PolicyGradientBatch):
            return self._policy_gradient(batch)
        tokens = []
        for item in batch.items:
            value = np.linspace(0, 1 - self.skill, len(item.completion), dtype=np.float32)
            zeros = np.zeros_like(value)
            tokens.append(TokenReport(value, zeros + 0.5, zeros + 0.25, zeros))
        loss = sum(
            i.weight * float(t.value.sum()) for i, t in zip(batch.items, tokens, strict=True)
        )
        trained = sum(len(i.student_prompt) + len(i.completion) for i in batch.items)
        scored = sum(len(i.teacher_prompt) + len(i.completion) for i in batch.items)
        if any(batch is each for each in self._read):  # the initial teacher scores a batch once
            scored = 0
        if batch.again and batch.teacher == "initial":
            self._read = [*self._read[-1:], batch]
        return BatchReport(loss, tuple(tokens), trained, scored)

    def _policy_gradient(self, batch: PolicyGradientBatch) -> BatchReport:
        tokens = []
        for item in batch.items:
            value = -np.asarray(item.advantages, np.float32)
            nothing = np.zeros(0, np.float32)
            tokens.append(TokenReport(value, np.full_like(value, 0.5), nothing, nothing))
        loss = sum(
            i.weight * float(t.value.sum()) for i, t in zip(batch.items, tokens, strict=True)
        )
        trained = sum(len(i.prompt) + len(i.completion) for i in batch.items)
        return BatchReport(loss, tuple(tokens), trained, 0)

    accumulate = measure

    def apply(self, learning_rate: float) -> float:
        self.skill = min(1.0, self.skill + self.gain)
        return 1.0

    def save_adapter(self, folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_text(str(self.skill))

    save = save_adapter

    def restore(self, folder: Path) -> None:
        self.skill = float((folder / "adapter_model.safetensors").read_text())

    load_adapter = restore

    def save_merged(self, folder: Path, dtype: str | None = None) -> None:
        self.save_adapter(folder)

    def memory(self) -> Memory:
        return Memory(1, 2)


@dataclass(frozen=True)
class Asked:
    """A call of `Policy.score`, or of `Policy.measure`: then its role is "measure"."""

    role: str
    teacher: str = "initial"
    temperature: float = 1.0
    prompts: tuple[str, ...] = ()


class ScoringPolicy(FakePolicy):
    """A `FakePolicy` with log-probabilities of one's own, which notes what it is asked.

    Attributes:
        asked: every call of `score` and `measure` so far.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[Asked] = []

    def log_probs(self, prompt: str, completion: tuple[int, ...], role: str) -> np.ndarray:
        """The log-probabilities [N] that `score` gives the tokens of a completion."""
        return np.zeros(len(completion))

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        assert not sampling.filters
        prompts = tuple(self.tokenizer.decode(prompt) for prompt, _ in sequences)
        self.asked.append(Asked(role, teacher, sampling.temperature, prompts))
        return [
            np.asarray(self.log_probs(prompt, completion, role), np.float32)
            for prompt, (_, completion) in zip(prompts, sequences, strict=True)
        ]

    def measure(self, batch: LossBatch) -> BatchReport:
        self.asked.append(Asked("measure"))
        return super().measure(batch)


class StopAfter(Listener):
    """Listener and `stop` in one: Ctrl-C once a step is done."""

    def __init__(self, step: int) -> None:
        self._step, self._reached = step, 0

    def step(self, row: StepRow) -> None:
        self._reached = row.step

    def __call__(self) -> bool:
        return self._reached >= self._step


class FakeBackend:
    """Implements `Backend`: always available, and named "cpu"."""

    name = "cpu"
    traits = CPU

    def capability(self) -> Capability:
        return Capability(True, "a fake processor")

    def load(self, config: Config, trainable: bool) -> FakePolicy:
        return FakePolicy(skill=0.2, gain=0.2)
