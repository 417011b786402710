"""The memory that a run needs, computed from its config and the model's config.json alone.

The peak is weights, also those of `teacher.model`, adapter and optimiser, plus the larger of two
phases that never overlap:
sampling rollouts (a cache of keys and values, the logits of one position) and learning from them
(the activations of one micro-batch, the divergence's chunk). The sizes of arrays are counted. What
a framework keeps beside them is the backend's own declaration (`backends.traits.MemoryTraits`),
fitted to measured peaks with `python benchmarks/memory_plan.py`. All sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.interface import FIXED_TEACHERS
from backends.traits import MemoryTraits
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.config.teacher_section import NO_REFERENCE
from opsd_cli.grading.judgements import LONGEST_TEXT
from opsd_cli.methods.anchor import keeps_initial_policy
from opsd_cli.planning.model_shape import Shape
from opsd_cli.planning.trainer_sampling import trainer_samples
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
        teacher: the weights of `teacher.model`; 0 without one.
        teacher_pass: its activations, of one block at a time, while it reads a micro-batch.
    """

    weights: int
    adapter: int
    rollouts: int
    activations: int
    transient: int
    divergence: int
    together: bool
    teacher: int = 0
    teacher_pass: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, under names for people."""
        teacher = {
            "teacher's weights": self.teacher,
            "teacher's activations": self.teacher_pass,
        }
        return {
            "weights": self.weights,
            **(teacher if self.teacher else {}),
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
        fixed = self.weights + self.teacher + self.adapter
        return fixed + max(self.rollouts, most, self.teacher_pass)


def estimated(config: Config, problems: Sequence[Problem]) -> Prompts:
    """Prompt lengths in tokens, estimated from the lengths of the texts without a tokenizer.

    Without problems: a long question, and the longest reference that the config allows.
    """
    found = _estimated(config, problems)
    if config.teacher.reference == NO_REFERENCE:  # the teacher has the student's prompt
        return Prompts(found.student, found.student)
    return found


def _estimated(config: Config, problems: Sequence[Problem]) -> Prompts:
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
    teacher: Shape | None = None,
) -> MemoryPlan:
    """The parts of a run's memory, on one device.

    Args:
        config: resolved.
        shape: of its model.
        prompts: tokens of its longest prompts.
        memory: what the backend declares.
        on_cpu: True if the backend computes on a CPU, where `train.dtype` auto means float32.
        parts: devices that the base is divided over (`train.shard`); 1 if each holds it whole.
        teacher: the shape of `teacher.model`; None without one.
    """
    number_bytes = 4 if config.train.dtype == "float32" else 2
    if config.train.dtype == "auto":
        number_bytes = 4 if on_cpu else 2
    # Weight, gradient and two moments; an average, and the adapter started from, where there are.
    copies = 4 + (config.teacher.weights == "ema") + (config.adapter is not None)
    kept, transient = _activations(config, shape, prompts, memory, number_bytes)
    return MemoryPlan(
        weights=shape.stored(_base_parameters(shape, parts), number_bytes),
        adapter=_FLOAT32 * copies * _adapter_parameters(config, shape),
        rollouts=max(
            _rollouts(config, shape, prompts, number_bytes),
            _cache_of_teacher(config, teacher, prompts, number_bytes),
        ),
        activations=kept + transient,
        transient=transient,
        divergence=_divergence(config, shape, prompts, memory, number_bytes, teacher or shape),
        together=memory.loss_beside_transients,
        teacher=0 if teacher is None else teacher.stored(teacher.parameters, number_bytes),
        teacher_pass=0
        if teacher is None
        else int(_block(config, teacher, prompts, memory, number_bytes, prompts.teacher))
        + teacher.made_whole(number_bytes),
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


def _rollouts(config: Config, shape: Shape, prompts: Prompts, number_bytes: int) -> int:
    """Bytes of the cache and the logits, where the trainer samples.

    An engine with weights of its own samples evaluations too: the trainer then samples nothing, or
    the analyses of a teacher whose weights the engine does not have.
    """
    from backends.rollout_engines import samples_here

    if not trainer_samples(config):
        return 0
    # Evaluations are sampled in the same batches, and may be longer.
    longest = max(config.sampling.max_new_tokens, config.evaluation.max_new_tokens or 0)
    length = prompts.student + longest
    if not samples_here(config, teacher=False):
        length = prompts.teacher + config.teacher.analysis_tokens
    return _cache(config, shape, length, number_bytes)


def _cache_of_teacher(
    config: Config, shape: Shape | None, prompts: Prompts, number_bytes: int
) -> int:
    """Bytes of cache and logits where `teacher.model` samples: its analyses, or the preflight."""
    analyses = config.teacher.analysis_tokens if config.teacher.reason_first else 0
    longest = config.evaluation.max_new_tokens or config.sampling.max_new_tokens
    longest = max(longest if config.preflight.enabled else 0, analyses)
    if shape is None or not longest:
        return 0
    return _cache(config, shape, prompts.teacher + longest, number_bytes)


def _cache(config: Config, shape: Shape, length: int, number_bytes: int) -> int:
    """Bytes of the keys and values of a batch's sequences of this length, and of its logits."""
    rows = config.rollouts.batch_size
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
    block = _block(config, shape, prompts, memory, number_bytes, prompts.student)
    if config.train.gradient_checkpointing:
        boundary = memory.boundary * rows * tokens * shape.hidden * number_bytes
        return int(shape.layers * boundary), int(memory.recomputed_blocks * block)
    return int(shape.layers * block), int(memory.transient_blocks * block)


def _block(
    config: Config,
    shape: Shape,
    prompts: Prompts,
    memory: MemoryTraits,
    number_bytes: int,
    prompt: int,
) -> float:
    """Bytes that one block keeps of a micro-batch whose prompts have `prompt` tokens."""
    tokens = prompt + _completion(config, prompts)
    length = -(-tokens // memory.length_multiple) * memory.length_multiple
    token_numbers = (
        memory.hidden * shape.hidden
        + memory.intermediate * shape.intermediate
        + memory.heads * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        + memory.scores * shape.heads * length
    )
    return number_bytes * _micro_batch_rows(config, prompts) * length * token_numbers


def _divergence(
    config: Config,
    shape: Shape,
    prompts: Prompts,
    memory: MemoryTraits,
    number_bytes: int,
    teacher: Shape,
) -> int:
    tokens = _micro_batch_rows(config, prompts) * _completion(config, prompts)
    logits = min(memory.chunk_bytes, tokens * shape.vocabulary * _FLOAT32)
    # Hidden states of student and teacher, and the gradient in float32.
    hidden = tokens * shape.hidden * (number_bytes + _FLOAT32)
    hidden += tokens * teacher.hidden * number_bytes
    # What later passes over the step's completions find again: of a fixed teacher, of the anchor.
    states = 0
    if config.train.passes > 1 and config.teacher.acting in FIXED_TEACHERS:
        states += teacher.hidden
    if keeps_initial_policy(config, methods.get(config).updates_per_step()):
        states += shape.hidden
    kept = _step_sequences(config) * config.sampling.max_new_tokens * states * number_bytes
    return int(memory.chunk_copies * logits) + hidden + kept
