"""The seam between what a run means and what a machine does.

The shared half speaks to a backend only through the two protocols below, and only in plain Python
values and NumPy arrays: never a tensor. A third backend needs one new folder and one line in
`backends.BACKENDS`; the conformance suite in tests/backends then says whether it is right.

Shapes: N counts completion tokens, V the vocabulary. Every completion includes its stop token when
it ended on one, and that token is learnt like any other, also where pad and stop share an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from opsd_cli.losses.divergence import DivergenceSpec
from opsd_cli.prompts.rendering import Tokenizer

if TYPE_CHECKING:
    from opsd_cli.config.schema import Config

TeacherWeights = Literal["initial", "live", "ema"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Filters apply in this order: temperature, top-k, top-p, min-p.

    `temperature` 0 means greedy; `top_k` 0, `top_p` 1 and `min_p` 0 each mean "keep everything".
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 1024

    @property
    def filters(self) -> bool:
        """Whether some tokens cannot be drawn that the model gives a probability."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)


PLAIN = Sampling()
"""Draws from the model's own distribution."""


@dataclass(frozen=True)
class RolloutRequest:
    """One completion to draw.

    `seed` alone decides the random numbers this rollout consumes (`uniforms`), so the outcome does
    not depend on which other requests share the batch.
    """

    problem_id: str
    sample_index: int
    prompt_ids: tuple[int, ...]
    seed: int


def uniforms(seed: int, count: int) -> np.ndarray:
    """The `count` uniform draws in [0, 1) that a rollout of this seed consumes, one a token.

    Both backends turn draw i into token i by inverting the filtered distribution's cumulative sum
    in order of token id, so a seed names the same completion on either.
    """
    return np.random.Generator(np.random.Philox(seed)).random(count)


@dataclass(frozen=True)
class Rollout:
    """A finished completion.

    `log_probs` holds, for each token, the sampler's log-probability under the *filtered, tempered*
    distribution it was drawn from; float32 [N].
    """

    request: RolloutRequest
    completion_ids: tuple[int, ...]
    log_probs: np.ndarray
    finish_reason: FinishReason


@dataclass(frozen=True)
class DivergenceItem:
    """A completion scored under two prompts.

    `weight` multiplies each of its tokens in the loss; `token_weights`, one a token, multiply them
    further (importance weights), and are empty where all are 1.
    """

    student_prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0
    token_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class DivergenceBatch:
    """loss = sum over items of weight * sum over tokens of token_weight * D(teacher, student).

    `again` says that this very batch will be learnt from more than once. Where the teacher's
    weights are the initial ones, a backend then reads its sequences the first time alone and keeps
    the hidden states, [N, D] numbers; the later reports count no teacher tokens.
    """

    items: tuple[DivergenceItem, ...]
    spec: DivergenceSpec
    teacher: TeacherWeights = "initial"
    again: bool = False


@dataclass(frozen=True)
class PolicyGradientItem:
    """A completion and the advantage of each of its tokens; supervised learning is advantage 1.

    `old_log_probs` are those of the weights the completion was drawn with, and
    `initial_log_probs` those of the teacher of weights "initial" under the same prompt, both at
    the batch's temperature, one a token; empty where the batch has no use for them.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    advantages: tuple[float, ...]
    weight: float = 1.0
    old_log_probs: tuple[float, ...] = ()
    initial_log_probs: tuple[float, ...] = ()


@dataclass(frozen=True)
class PolicyGradientBatch:
    """loss = sum over items of weight * sum over tokens of surrogate + kl * penalty, where

        surrogate = -A log p                                              without old log-probs
        surrogate = -min(r A, min(max(r, 1 - clip_low), 1 + clip_high) A),  r = p / p_old, with
        penalty   = p_0 / p - log(p_0 / p) - 1,  p_0 the initial policy's

    which is GRPO's loss (arXiv 2402.03300, equation 3, with the penalty of its equation 4).
    """

    items: tuple[PolicyGradientItem, ...]
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0


LossBatch = DivergenceBatch | PolicyGradientBatch


@dataclass(frozen=True)
class TokenReport:
    """What a loss batch found at each token of one item, float32 [N] each.

    `value` is the divergence (or the policy gradient's surrogate and penalty), before any weight.
    `clipped` is 1 where a clip took hold. A policy-gradient batch has no `teacher_entropy`, and
    without old log-probabilities no `clipped`: both are then empty.
    """

    value: np.ndarray
    student_entropy: np.ndarray
    teacher_entropy: np.ndarray
    clipped: np.ndarray


@dataclass(frozen=True)
class BatchReport:
    """The loss of a batch and its tokens, in the order of the batch's items.

    `trained_tokens` counts every position of the student's sequences that went through the forward
    pass with gradient, prompts included; `teacher_tokens` likewise for the teacher's, padding not.
    """

    loss: float
    tokens: tuple[TokenReport, ...]
    trained_tokens: int
    teacher_tokens: int


@dataclass(frozen=True)
class Memory:
    """Bytes in use now and at the highest since the model was loaded, on the device that binds."""

    current: int
    peak: int


@dataclass(frozen=True)
class Capability:
    """Whether a backend can work here, and in one line on what (or why not, and how to mend it).

    `memory` is the bytes that a run may fill, where the device says; `on_cpu` whether that is the
    machine's own memory, in which weights are float32.
    """

    available: bool
    detail: str
    hint: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    memory: int | None = None
    on_cpu: bool = True


class Prefetches(Protocol):
    """A policy whose engine can draw while the weights are learnt."""

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        """Draw as the student with the weights as they are now, beside whatever comes next; what
        is drawn otherwise waits until this is done."""


class Policy(Protocol):
    """A loaded model with a trainable adapter, able to act as student and as teacher."""

    tokenizer: Tokenizer

    @property
    def description(self) -> str:
        """One line for people: architecture, parameters, adapter parameters, dtype, device."""

    @property
    def parameter_count(self) -> int:
        """Parameters of the model and its adapter."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a completion (the generation config's list)."""

    @property
    def context_limit(self) -> int | None:
        """The most positions a sequence may have, prompt and completion together; None: unknown."""

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """Draw every request, yielding each as it finishes, with the weights of `role`."""

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        """Log-probability of each completion token, float32 [N], for (prompt, completion) pairs.

        It is that under the distribution that `sampling` draws from: `Rollout.log_probs`, had these
        weights drawn the completion. A token that its filters keep out gets -inf.
        """

    def measure(self, batch: LossBatch) -> BatchReport:
        """The report of a batch, with no gradient taken and dropout off."""

    def accumulate(self, batch: LossBatch) -> BatchReport:
        """Add the batch's gradient to the adapter's, in micro-batches by token budget."""

    def apply(self, learning_rate: float) -> float:
        """Clip, take one AdamW step, update the EMA teacher, drop gradients.

        Returns the gradient norm before clipping. Raises `TrainingError` and leaves the weights
        alone where that norm is not finite.
        """

    def save_adapter(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` in PEFT's format."""

    def save_merged(self, folder: Path) -> None:
        """Write model and tokenizer with the adapter added into the weights, in the dtype that the
        base is stored in, quantised weights written out in full. The policy is of no use after."""

    def save(self, folder: Path) -> None:
        """`save_adapter`, and `optimizer.safetensors`: moments, EMA teacher, random state."""

    def restore(self, folder: Path) -> None:
        """Everything `save` wrote; the next step is then, bit for bit, what it would have been."""

    def load_adapter(self, folder: Path) -> None:
        """Adapter weights alone. Raises `ModelError` where they do not fit this model."""

    def memory(self) -> Memory:
        """Memory in use; cheap enough to ask every step."""


class Backend(Protocol):
    """What can load a policy on this machine."""

    name: str

    def capability(self) -> Capability:
        """What this machine offers; imports what it must, and never raises."""

    def load(self, config: Config, trainable: bool) -> Policy:
        """Load `config.model` with `config.adapter`, or with a fresh adapter of `config.lora`.

        With `trainable` false no optimiser is made, and with no adapter the base alone is loaded.
        Raises `ModelError` or `BackendMissing`.
        """
