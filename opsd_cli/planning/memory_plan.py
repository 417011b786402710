"""The memory that a run needs, computed from its config and the model's config.json alone.

The peak is weights, adapter and optimiser, plus the larger of two phases that never overlap:
sampling rollouts (a cache of keys and values, the logits of one position) and learning from them
(the activations of one micro-batch, the divergence's chunk). The sizes of arrays are counted. What
a framework keeps beside them is the backend's own declaration (`backends.traits.MemoryTraits`),
fitted to measured peaks with `python benchmarks/memory_plan.py`. All sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backends.traits import MemoryTraits
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.grading.judgements import LONGEST_TEXT
from opsd_cli.planning.model_shape import Shape
from opsd_cli.problems import Problem
from opsd_cli.prompts.references import FEEDBACK, SIBLING, reference_of
from opsd_cli.rollouts.contrast import WRONG_ROLLOUT

#: Characters per token, estimated low: mathematical text has many short tokens.
_CHARACTERS_PER_TOKEN = 3.0
#: Tokens of a question and of a reference solution, assumed where the problems cannot be read.
_UNSEEN_QUESTION, _UNSEEN_REFERENCE = 512, 8192
#: Tokens of the teacher's instructions and the chat template.
_TEMPLATE_TOKENS = 120
_FLOAT32 = 4
#: Layers of a divided base that are whole at once: that in use, the next one, which is gathered
#: meanwhile, and the last one, which is kept for the backward pass.
_GATHERED_LAYERS = 3


@dataclass(frozen=True)
class Prompts:
    """Tokens of the longest prompt of either role."""

    student: int
    teacher: int


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each part of a run's memory.

    Attributes:
        weights: the base model, in the dtype it is loaded in.
        adapter: adapter, gradients, moments and averages.
        rollouts: cache of keys and values, and logits, while rollouts are sampled.
        activations: of one micro-batch.
        transient: what of them exists in the backward pass alone.
        divergence: hidden states and logits of the loss.
        together: True if the transient part and the divergence are counted at the same time
            (`MemoryTraits.loss_beside_transients`).
    """

    weights: int
    adapter: int
    rollouts: int
    activations: int
    transient: int
    divergence: int
    together: bool

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, under names for people."""
        return {
            "weights": self.weights,
            "adapter and optimiser": self.adapter,
            "rollouts (KV cache)": self.rollouts,
            "activations": self.activations,
            "divergence": self.divergence,
        }

    @property
    def peak(self) -> int:
        """Highest number of bytes at any moment; sampling and learning do not overlap."""
        beside_loss = self.activations - (0 if self.together else self.transient)
        most = max(self.activations, beside_loss + self.divergence)
        return self.weights + self.adapter + max(self.rollouts, most)


def estimated(config: Config, problems: Sequence[Problem]) -> Prompts:
    """Prompt lengths in tokens, estimated from the lengths of the texts without a tokenizer.

    Without problems: a long question, and the longest reference that the config allows.
    """
    shots = config.prompts.few_shot.examples
    if not problems:
        few_shot = shots * (_UNSEEN_QUESTION + _UNSEEN_REFERENCE)
        unseen = max(_UNSEEN_REFERENCE, longest_of_one_rollout(config))
        teacher = few_shot + unseen + shots * _UNSEEN_REFERENCE
        return Prompts(_UNSEEN_QUESTION + few_shot, config.prompts.teacher.max_tokens or teacher)
    question = max((p.characters for p in problems), default=0) / _CHARACTERS_PER_TOKEN
    solution = max((len(p.solution or "") for p in problems), default=0) / _CHARACTERS_PER_TOKEN
    few_shot = shots * (int(question + solution) + _TEMPLATE_TOKENS // 2)
    student = int(question) + _TEMPLATE_TOKENS // 2 + few_shot
    # The teacher's examples have their solutions twice: as reference and as answer.
    reference = _longest_reference(config, problems)
    teacher = int(question + reference) + _TEMPLATE_TOKENS + few_shot + shots * int(solution)
    limit = config.prompts.teacher.max_tokens
    return Prompts(student, min(teacher, limit) if limit else teacher)


def _longest_reference(config: Config, problems: Sequence[Problem]) -> float:
    """Tokens of the longest reference of a teacher's prompt, estimated."""
    found = (reference_of(problem, config.teacher) for problem in problems)
    longest = max((len(each.text) for each in found if each), default=0) / _CHARACTERS_PER_TOKEN
    return max(longest, longest_of_one_rollout(config))


def longest_of_one_rollout(config: Config) -> int:
    """Most tokens of a reference that belongs to one rollout, which is not there to be measured.

    Returns:
        For a sibling as many as a completion may have; for feedback an estimate from the
        characters that are kept of it; 0 where the reference belongs to the problem, and no wrong
        rollout is contrasted with it.
    """
    teacher, rollout = config.teacher, config.sampling.max_new_tokens
    if teacher.reference == FEEDBACK:
        feedback = int(LONGEST_TEXT / _CHARACTERS_PER_TOKEN)
        return max(feedback, rollout) if teacher.contrast == WRONG_ROLLOUT else feedback
    return rollout if teacher.reference == SIBLING or teacher.contrast == WRONG_ROLLOUT else 0


def estimated_tokens(text: str) -> int:
    """Tokens of a text, estimated from its characters; at least 1."""
    return max(1, int(len(text) / _CHARACTERS_PER_TOKEN))


def estimated_reference(config: Config, problems: Sequence[Problem]) -> int:
    """Tokens of the longest reference solution, as an off-policy method reads it."""
    if not problems:
        return config.sft.max_tokens or _UNSEEN_REFERENCE
    longest = max((len(p.solution or "") for p in problems), default=0)
    return max(1, int(longest / _CHARACTERS_PER_TOKEN))


def plan(
    config: Config,
    shape: Shape,
    prompts: Prompts,
    memory: MemoryTraits,
    on_cpu: bool,
    parts: int = 1,
) -> MemoryPlan:
    """The parts of a run's memory, on one device.

    Args:
        config: resolved.
        shape: of its model.
        prompts: tokens of its longest prompts.
        memory: what the backend declares.
        on_cpu: True if the backend computes on a CPU, where `train.dtype` auto means float32.
        parts: devices that the base is divided over (`train.shard`); 1 if each holds it whole.
    """
    number_bytes = 4 if config.train.dtype == "float32" else 2
    if config.train.dtype == "auto":
        number_bytes = 4 if on_cpu else 2
    stored = number_bytes if shape.bits is None else shape.bits / 8
    # Weight, gradient and two moments; an average, and the adapter started from, where there are.
    copies = 4 + (config.teacher.weights == "ema") + (config.adapter is not None)
    kept, transient = _activations(config, shape, prompts, memory, number_bytes)
    return MemoryPlan(
        weights=int(_base_parameters(shape, parts) * stored),
        adapter=_FLOAT32 * copies * _adapter_parameters(config, shape),
        rollouts=_rollouts(config, shape, prompts, number_bytes),
        activations=kept + transient,
        transient=transient,
        divergence=_divergence(config, shape, prompts, memory, number_bytes),
        together=memory.loss_beside_transients,
    )


def _base_parameters(shape: Shape, parts: int) -> float:
    """Weights of the base on one device.

    Of a divided base each device holds embedding and head whole, its part of the layers, and up to
    `_GATHERED_LAYERS` gathered ones.
    """
    if parts == 1:
        return shape.parameters
    layers = shape.layers * sum(a * b for a, b in shape.linear.values())
    gathered = min(_GATHERED_LAYERS, shape.layers) * layers / shape.layers
    return shape.parameters - layers + layers / parts + gathered


def _adapter_parameters(config: Config, shape: Shape) -> int:
    sizes = [sum(shape.linear[t]) for t in config.lora.targets if t in shape.linear]
    return shape.layers * config.lora.rank * sum(sizes)


def _is_off_policy(config: Config) -> bool:
    """True if the method learns from the reference solutions and samples no rollouts."""
    return methods.get(config).rollouts_per_question() == 0


def _step_sequences(config: Config) -> int:
    """Sequences that a step learns from: its rollouts, or off-policy one for each question."""
    return config.train.questions_per_step * max(1, methods.get(config).rollouts_per_question())


def _completion(config: Config, prompts: Prompts) -> int:
    """Tokens of the longest text that is trained on: a rollout, or off-policy a reference."""
    if _is_off_policy(config):
        return max(1, prompts.teacher - prompts.student)
    return config.sampling.max_new_tokens


def trainer_samples(config: Config) -> bool:
    """True if the trainer's own weights sample in a run: all rollouts, or the teacher's analyses.

    With an engine of its own the latter: where the engine has no file of the teacher's weights
    (`backends.rollout_engines.samples_here`).
    """
    from backends.rollout_engines import samples_here

    if samples_here(config, teacher=False):
        return True
    analyses = config.teacher.reason_first and methods.get(config).needs.teacher
    return analyses and samples_here(config, teacher=True)


def _rollouts(config: Config, shape: Shape, prompts: Prompts, number_bytes: int) -> int:
    """Bytes of the cache and the logits, where the trainer samples.

    An engine with weights of its own samples evaluations too: the trainer then samples nothing, or
    the analyses of a teacher whose weights the engine does not have.
    """
    from backends.rollout_engines import samples_here

    if not trainer_samples(config):
        return 0
    rows = config.rollouts.batch_size
    # Evaluations are sampled in the same batches, and may be longer.
    longest = max(config.sampling.max_new_tokens, config.evaluation.max_new_tokens or 0)
    length = prompts.student + longest
    if not samples_here(config, teacher=False):
        length = prompts.teacher + config.teacher.analysis_tokens
    cache = rows * length * shape.layers * 2 * shape.kv_heads * shape.head_dim * number_bytes
    # A cache is copied as it grows, one layer at a time.
    logits = 4 * rows * shape.vocabulary * _FLOAT32
    return int(cache * (1 + 1 / shape.layers)) + logits


def _micro_batch_rows(config: Config, prompts: Prompts) -> int:
    """Sequences of the largest micro-batch."""
    teacher = prompts.student if _is_off_policy(config) else prompts.teacher
    length = max(prompts.student, teacher) + _completion(config, prompts)
    rows = max(1, config.train.micro_batch_tokens // length)
    return min(rows, _step_sequences(config))


def _activations(
    config: Config, shape: Shape, prompts: Prompts, memory: MemoryTraits, number_bytes: int
) -> tuple[int, int]:
    """Bytes kept from the forward pass to the backward pass, and those that the latter adds."""
    rows = _micro_batch_rows(config, prompts)
    tokens = prompts.student + _completion(config, prompts)
    length = -(-tokens // memory.length_multiple) * memory.length_multiple
    token_numbers = (
        memory.hidden * shape.hidden
        + memory.intermediate * shape.intermediate
        + memory.heads * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        + memory.scores * shape.heads * length
    )
    block = number_bytes * rows * length * token_numbers
    if config.train.gradient_checkpointing:
        boundary = memory.boundary * rows * tokens * shape.hidden * number_bytes
        return int(shape.layers * boundary), int(memory.recomputed_blocks * block)
    return int(shape.layers * block), int(memory.transient_blocks * block)


def _divergence(
    config: Config, shape: Shape, prompts: Prompts, memory: MemoryTraits, number_bytes: int
) -> int:
    tokens = _micro_batch_rows(config, prompts) * _completion(config, prompts)
    logits = min(memory.chunk_bytes, tokens * shape.vocabulary * _FLOAT32)
    # Hidden states of student and teacher, and the gradient in float32.
    hidden = tokens * shape.hidden * (2 * number_bytes + _FLOAT32)
    kept = 0
    if config.train.passes > 1 and config.teacher.weights == "initial":
        kept = _step_sequences(config) * config.sampling.max_new_tokens
        kept *= shape.hidden * number_bytes
    return int(memory.chunk_copies * logits) + hidden + kept


def nearest_that_fits(
    config: Config, limit: int, peak: Callable[[Config], int]
) -> dict[str, Any] | None:
    """Settings that bring the peak within the limit, those that affect results least first.

    Recomputed activations and smaller batches do not change the training result; a lower rank and
    shorter completions do, and are tried last. A setting that does not lower the peak is kept.

    Args:
        config: the run that does not fit.
        limit: bytes.
        peak: gives a config's peak in bytes.

    Returns:
        New values by config key; None if no combination fits, since the model is too large.
    """
    from opsd_cli.config.resolve import assigned

    changed: dict[str, Any] = {}
    while peak(config) > limit:
        for key, reduced in _SMALLER:
            value = reduced(config)
            if value is not None and peak(tried := assigned(config, key, value)) < peak(config):
                config = tried
                changed[key] = value
                break
        else:
            return None
    return changed


def _half(number: int, minimum: int) -> int | None:
    return None if number <= minimum else max(minimum, math.ceil(number / 2))


_SMALLER: tuple[tuple[str, Callable[[Config], Any]], ...] = (
    ("train.micro_batch_tokens", lambda c: _half(c.train.micro_batch_tokens, 2048)),
    ("train.gradient_checkpointing", lambda c: None if c.train.gradient_checkpointing else True),
    ("train.micro_batch_tokens", lambda c: _half(c.train.micro_batch_tokens, 256)),
    ("rollouts.batch_size", lambda c: _half(c.rollouts.batch_size, 1)),
    ("lora.rank", lambda c: _half(c.lora.rank, 8)),
    ("sampling.max_new_tokens", lambda c: _half(c.sampling.max_new_tokens, 64)),
)
