"""The interface between the shared half and a backend.

The shared half talks to a backend only through the protocols below, in plain Python values and
NumPy arrays, never in tensors. A new backend is one folder and one line in `backends.BACKENDS`; the
conformance suite in tests/backends checks it.

Longer than 350 lines: the author of a backend finds the whole contract in one file.

Shapes: N completion tokens, V vocabulary, D hidden size. Units: lengths and limits in tokens,
log-probabilities, entropies and divergences in nats, memory in bytes. A completion that ended with
a stop token includes it; that token is trained on like any other, also if pad and stop share an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from opsd_cli.losses.divergence import DivergenceSpec
from opsd_cli.prompts.rendering import Tokenizer

if TYPE_CHECKING:
    from backends.traits import BackendTraits
    from opsd_cli.config.schema import Config

TeacherWeights = Literal["initial", "live", "ema", "model"]
#: Teachers whose weights are the same throughout a run.
FIXED_TEACHERS: tuple[TeacherWeights, ...] = ("initial", "model")
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. Applied in this order: temperature, top-k, top-p, min-p.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: keeps the fewest tokens whose probabilities add up to this; 1 keeps all.
        top_k: keeps so many of the most probable tokens; 0 keeps all.
        min_p: removes tokens below this share of the highest probability; 0 removes none.
        max_new_tokens: maximum length of a completion.
        stop: strings that end a completion, besides the stop tokens. Its last token is the first
            after which its text contains one of them.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 1024
    stop: tuple[str, ...] = ()

    @property
    def filters(self) -> bool:
        """True if top-k, top-p or min-p can exclude tokens of non-zero probability."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)


PLAIN = Sampling()
"""Samples from the model's own distribution."""


@dataclass(frozen=True)
class RolloutRequest:
    """One completion to sample.

    Attributes:
        problem_id: the problem, unique within its set.
        sample_index: which of the problem's samples.
        prompt_ids: token ids of the prompt, at least one.
        seed: determines alone which random numbers the rollout consumes (`uniforms`), so that the
            outcome does not depend on the other requests of the batch.
        shared: how many leading tokens of the prompt are read once for all requests of a call;
            None: counted from the requests of the call. Who divides a call over processes says it,
            so that all of them add up in the same order.
    """

    problem_id: str
    sample_index: int
    prompt_ids: tuple[int, ...]
    seed: int
    shared: int | None = field(default=None, compare=False)


def uniforms(seed: int, count: int) -> np.ndarray:
    """The uniform random numbers in [0, 1) that a rollout of this seed consumes, float64 [count].

    Every backend turns number i into token i by inverting the cumulative sum of the filtered
    distribution in the order of token ids, so a seed gives the same completion on each.
    """
    return np.random.Generator(np.random.Philox(seed)).random(count)


@dataclass(frozen=True)
class Rollout:
    """A finished completion.

    Attributes:
        request: what was asked for.
        completion_ids: N token ids, as sampled: the stop token, or the tokens of the stop string,
            included.
        log_probs: float32 [N], nats: each token's log-probability under the distribution that it
            was sampled from, after temperature and filters.
        finish_reason: "stop" if the last token is a stop token or completes a stop string, else
            "length".
    """

    request: RolloutRequest
    completion_ids: tuple[int, ...]
    log_probs: np.ndarray
    finish_reason: FinishReason


@dataclass(frozen=True)
class DecodingReport:
    """The progress of one call of `generate`, for people.

    Attributes:
        tokens: decoded so far, those of finished completions included.
        most: what `tokens` becomes if every unfinished completion reaches its limit; it decreases
            as completions end before theirs.
        finished: completions that have ended.
        stopped: those of them that ended with a stop token.
        unfinished: the requests whose completions are being decoded, and their token ids so far;
            the ids may be read during the call of the observer alone. Empty from an engine that
            gives whole completions only; its `tokens` are then those of finished completions.
        prompt_tokens: tokens of prompts that have been read; samples of one prompt share a reading.
        prompt_total: of how many in this call; 0 from an engine that does not report reading.
        reading: True while prompts are being read, so that nothing is decoded meanwhile.
    """

    tokens: int
    most: int
    finished: int
    stopped: int
    unfinished: Sequence[tuple[RolloutRequest, Sequence[int]]] = ()
    prompt_tokens: int = 0
    prompt_total: int = 0
    reading: bool = False


class Observer(Protocol):
    """Receives the progress of a policy's long calls, a few times a second.

    What it is told changes no result. Each method is called in the thread that computes: that of
    the caller, or that of a prefetch.
    """

    def decoding(self, report: DecodingReport) -> None:
        """`generate` has decoded more tokens, or read more of its prompts."""

    def learning(self, done: int, total: int) -> None:
        """`accumulate` or `measure` has read `done` of the batch's `total` tokens, prompts and
        both roles' sequences included."""


@runtime_checkable
class Observable(Protocol):
    """A policy that reports the progress of its long calls. Optional: not every policy does."""

    def observe(self, observer: Observer | None) -> None:
        """Report the calls that begin from now on to this observer; None ends it."""


@dataclass(frozen=True)
class DivergenceItem:
    """A completion of N tokens under the student's and under the teacher's prompt.

    Attributes:
        student_prompt: token ids.
        teacher_prompt: token ids.
        completion: token ids.
        weight: factor of each token's divergence in the loss.
        token_weights: N further factors (importance and token weights); empty if all are 1.
    """

    student_prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0
    token_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class DivergenceBatch:
    """loss = sum over items of weight * sum over tokens of token_weight * D(teacher, student).

    Attributes:
        items: the completions.
        spec: which divergence.
        teacher: whose weights the teacher has.
        again: True if this same batch will be trained on again. With a teacher whose weights do not
            change (`FIXED_TEACHERS`) a backend then reads the teacher's sequences only the first
            time and keeps their hidden states [N, D] until another such batch comes; later reports
            count no teacher tokens.
    """

    items: tuple[DivergenceItem, ...]
    spec: DivergenceSpec
    teacher: TeacherWeights = "initial"
    again: bool = False


@dataclass(frozen=True)
class PolicyGradientItem:
    """A completion of N tokens and their advantages; supervised learning has advantages of 1.

    Attributes:
        prompt: token ids.
        completion: token ids.
        advantages: N numbers.
        weight: factor of each token in the loss.
        old_log_probs: N log-probabilities, nats, under the weights that sampled the completion, at
            the batch's temperature; empty without a clipped ratio.
        initial_log_probs: the same under the initial weights; empty without a penalty.
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

    Attributes:
        items: the completions.
        temperature: divides the logits before the log-probabilities.
        clip_low: how far the ratio r counts below 1.
        clip_high: how far it counts above 1.
        kl: weight of the penalty.
    """

    items: tuple[PolicyGradientItem, ...]
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0


LossBatch = DivergenceBatch | PolicyGradientBatch


@dataclass(frozen=True)
class TokenReport:
    """Numbers of each token of one item, float32 [N] each; an array without a meaning is empty.

    Attributes:
        value: nats: the divergence, or the surrogate with its penalty, before any weight.
        student_entropy: nats.
        teacher_entropy: nats; empty for a policy-gradient batch.
        clipped: 1 where the clip changed the value, else 0; empty for a policy-gradient batch
            without old log-probabilities.
    """

    value: np.ndarray
    student_entropy: np.ndarray
    teacher_entropy: np.ndarray
    clipped: np.ndarray


@dataclass(frozen=True)
class BatchReport:
    """The loss of a batch and its tokens, in the order of the batch's items.

    Attributes:
        loss: the weighted sum.
        tokens: one report for each item.
        trained_tokens: positions of the student's sequences in a forward pass with gradient,
            prompts included, padding excluded.
        teacher_tokens: positions of the teacher's sequences, counted in the same way.
    """

    loss: float
    tokens: tuple[TokenReport, ...]
    trained_tokens: int
    teacher_tokens: int


@dataclass(frozen=True)
class Memory:
    """Bytes in use now, and the peak since the model was loaded, on the device that limits."""

    current: int
    peak: int


@dataclass(frozen=True)
class Device:
    """A device of a backend.

    Attributes:
        name: for people.
        memory: bytes; None if it does not say.
        reaches: numbers of the other devices whose memory it can read and write directly.
    """

    name: str
    memory: int | None
    reaches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Capability:
    """Whether a backend can run on this machine.

    Attributes:
        available: True if it can.
        detail: one line: the device, or the reason why not.
        hint: what to do if it is not available; may be empty.
        versions: of the packages that it uses.
        memory: bytes that a run may fill; None if the device does not say.
        on_cpu: True if that is the machine's own memory, where `train.dtype` auto means float32.
        devices: how many of its kind this machine has.
        each_device: those, by number; may be empty.
    """

    available: bool
    detail: str
    hint: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    memory: int | None = None
    on_cpu: bool = True
    devices: int = 1
    each_device: tuple[Device, ...] = ()


@runtime_checkable
class SpansProcesses(Protocol):
    """A policy that other processes may work for. Optional."""

    @property
    def processes(self) -> int:
        """Processes that share its work, this one included."""

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the other processes so far, as of their last results."""


class Prefetches(Protocol):
    """A policy whose rollout engine can sample while the trainer computes gradients."""

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        """Start to sample as the student with the current weights, and return at once.

        Later changes of the weights do not affect these rollouts. `generate` waits for them.

        Returns:
            The rollouts, in the order in which they finish; or the error that `generate` would
            have raised.

        Raises:
            TrainingError: the current weights cannot be handed to the engine.
        """


class Policy(Protocol):
    """A loaded model with a trainable adapter, able to act as student and as teacher.

    A role names a prompt and weights: the student always has the current weights; `teacher` says
    which ones the teacher has: those at the start ("initial"), the current ones ("live"), their
    moving average ("ema"), or those of another model of the same vocabulary ("model",
    `teacher.model`), which is read with its own context limit and stops at its own stop ids; such
    a last token is given as one of `stop_ids`, where there are any.
    """

    tokenizer: Tokenizer

    @property
    def description(self) -> str:
        """One line for people: architecture, parameters, adapter parameters, dtype, device."""

    @property
    def parameter_count(self) -> int:
        """Parameters of the model and its adapter."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a completion, from the model's generation config."""

    @property
    def context_limit(self) -> int | None:
        """Maximum tokens of a sequence, prompt and completion together; None if unknown."""

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """Sample every request with the weights of `role`, yielding each rollout as it finishes.

        The order is not that of the requests. A prompt that fills the context gives a completion
        of no tokens with finish reason "length".

        Raises:
            ModelError: a prompt has no tokens.
            TrainingError: the logits are not numbers, memory is exhausted, there is no moving
                average for the teacher, or a separate rollout engine has failed for good.
        """

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        """Log-probabilities of completion tokens under given weights.

        Args:
            sequences: (prompt, completion) pairs of token ids.
            role: whose weights.
            teacher: which weights the teacher has.
            sampling: temperature and filters of the distribution.

        Returns:
            For each pair float32 [N], nats: what `Rollout.log_probs` would be if these weights had
            sampled the completion. A token that the filters exclude has -inf.

        Raises:
            ModelError: a prompt has no tokens, or a sequence exceeds the context limit.
            TrainingError: memory is exhausted, or there is no moving average for the teacher.
        """

    def measure(self, batch: LossBatch) -> BatchReport:
        """The report of a batch, without gradient and without dropout.

        Raises:
            ModelError: a prompt has no tokens, or a sequence exceeds the context limit.
            TrainingError: memory is exhausted, or there is no moving average for the teacher.
        """

    def accumulate(self, batch: LossBatch) -> BatchReport:
        """Add the gradient of the batch's loss to the adapter's gradient.

        The batch is cut into micro-batches of at most `train.micro_batch_tokens` padded tokens.
        Dropout depends on the run's seed, the updates applied so far and each item's place alone.

        Returns:
            The report of the batch, under the weights before the next `apply`.

        Raises:
            ModelError: a prompt has no tokens, a sequence exceeds the context limit, or the policy
                was not loaded as trainable.
            TrainingError: memory is exhausted, or there is no moving average for the teacher.
        """

    def apply(self, learning_rate: float) -> float:
        """Clip the gradient, take one AdamW step, update the EMA teacher, clear the gradient.

        Returns:
            The norm of the gradient before clipping.

        Raises:
            ModelError: the policy was not loaded as trainable.
            TrainingError: that norm is not finite; the weights are then unchanged.
        """

    def save_adapter(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` in PEFT's format.

        Raises:
            ModelError: there is no adapter.
            OSError, SafetensorError: the folder cannot be written.
        """

    def save_merged(self, folder: Path, dtype: str | None = None) -> None:
        """Write model and tokenizer with the adapter merged into the weights.

        Quantised weights are dequantised. The policy cannot be used afterwards.

        Args:
            folder: to write to.
            dtype: "float32", "bfloat16" or "float16"; None for that of the stored base.

        Raises:
            ModelError: there is no adapter, or this model cannot be merged with one.
            OSError, SafetensorError: the folder cannot be written.
        """

    def save(self, folder: Path) -> None:
        """`save_adapter`, and `optimizer.safetensors`: moments and EMA teacher.

        Raises:
            ModelError: the policy was not loaded as trainable.
            OSError, SafetensorError: the folder cannot be written.
        """

    def restore(self, folder: Path) -> None:
        """Load everything that `save` wrote; the next step is then the same, bit for bit.

        Raises:
            ModelError: the files are missing, damaged, or do not fit this model.
        """

    def load_adapter(self, folder: Path) -> None:
        """Load the adapter's weights alone, and keep the optimiser as it is.

        Raises:
            ModelError: they are missing, damaged, or do not fit this model.
        """

    def memory(self) -> Memory:
        """Memory in use; cheap enough to be called every step."""


class SharesGradients(Protocol):
    """A policy whose gradient several processes can compute in shares (`backends.parallel`).

    Optional. A gradient is one float32 vector [P] of the backend's own kind of array.
    """

    def accumulate_units(
        self, batch: LossBatch, units: Sequence[Sequence[int]], passes: int = 0
    ) -> tuple[BatchReport, list[Any]]:
        """The gradients of some of a batch's items, which the adapter's gradient stays without.

        Args:
            units: indices of items; each unit is cut into micro-batches of its own.
            passes: micro-batches to run at least. Where each process holds a part of the base, all
                must run as many; what a process lacks it runs on a filler that counts for nothing.

        Returns:
            The report, whose tokens are empty for items that are in no unit, and a gradient for
            each unit.

        Raises: as `Policy.accumulate`.
        """

    def add_gradient(self, gradient: Any) -> None:
        """Add to the adapter's gradient."""


class GradientExchange(Protocol):
    """Adds up gradients over the processes of a run; every process makes the same calls."""

    def sum(self, gradients: Sequence[Any], exact: bool) -> Any:
        """The sum of all processes' gradients, the same bits in each process.

        Args:
            gradients: this process's, at least one, as many in each process.
            exact: add them in the order of the ranks and of each rank's list, so that the sum does
                not depend on how many processes share them; else in the order that is fastest.

        Raises:
            TrainingError: another process has ended or cannot be reached.
        """

    def close(self) -> None:
        """Leave the other processes."""


@runtime_checkable
class ExchangesGradients(Protocol):
    """A backend that can train in several processes, each with a replica. Optional.

    With `BackendTraits.shards` the base may be divided over the processes (`train.shard`), which
    meet before they load it. Then all make the same calls of `Policy.score`, `Policy.measure` and
    `SharesGradients.accumulate_units`, each of as many micro-batches.
    """

    def exchange(
        self, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]
    ) -> GradientExchange:
        """Meet the other processes of a run that train with replicas of one model.

        Args:
            rank: this process's, counted from 0.
            size: processes in all; one process alone meets nobody.
            host: the address at which the others reach rank 0.
            broadcast: hands a value of rank 0's to every process, and returns it; the other ranks'
                argument does not count.

        Raises:
            TrainingError: the others cannot be reached.
        """


class Backend(Protocol):
    """A framework on a kind of device.

    The module of the class imports its framework only inside methods: `traits` must be readable
    where the framework is not installed.
    """

    name: str
    traits: BackendTraits

    def capability(self) -> Capability:
        """What this machine offers; imports the framework, and never raises."""

    def load(self, config: Config, trainable: bool) -> Policy:
        """Load `config.model` with `config.adapter`, or with a new adapter of `config.lora`.

        Args:
            config: resolved.
            trainable: False makes no optimiser, and without `config.adapter` no adapter either.

        Raises:
            ModelError: the model, tokenizer or adapter cannot be loaded or do not fit together.
            UsageError: the config asks for something that this backend cannot do.
            BackendMissing: the backend cannot run on this machine.
        """
