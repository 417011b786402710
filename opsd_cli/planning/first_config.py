"""A config for a first run on a model and data of one's own: what `opsd init` writes.

The problems, the tokenizer and the chat template are read, the memory is planned, and no weights
are loaded. Values are starting points. Where the data, the model or the machine gives a value, the
comment beside it says so; the others are published, or of `small-cpu`, `small-gpu` and `RANKS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opsd_cli import methods
from opsd_cli.config.commented import Draft, commented_yaml
from opsd_cli.config.layers import merge
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.embedded import EMBEDDED
from opsd_cli.formatting import gibibytes
from opsd_cli.grading import open_grader
from opsd_cli.planning import memory_plan, smaller_settings
from opsd_cli.planning.before_step_1 import before_step_1
from opsd_cli.planning.data_suggestions import columns_of, is_own_file, suggest
from opsd_cli.planning.model_reading import (
    ModelReading,
    TextLengths,
    boundary_differs,
    read_model,
    text_lengths,
)
from opsd_cli.planning.planned_device import PlannedDevice, planned_device
from opsd_cli.planning.planned_memory import PlannedMemory, planned_memory
from opsd_cli.planning.prompt_lengths import prompt_lengths
from opsd_cli.problems.checking import grading_warnings
from opsd_cli.problems.sources import Splits, load_splits
from opsd_cli.prompts.rendering import NO_CHAT_TEMPLATE
from opsd_cli.tracking.listener import Listener

#: Models of fewer parameters get a higher learning rate and cooler sampling.
SMALL = 1_000_000_000
#: (parameters, LoRA rank): the first bound above a model's size gives its rank; else 64.
RANKS = ((500_000_000, 16), (1_500_000_000, 32))
PUBLISHED_RANK = 64
#: Share of the device's memory that the planned peak may take: the plan is an estimate.
MEMORY_SHARE = 0.8
#: Completion lengths, in tokens: at least, and at most as published. A model's answers do not get
#: short with the reference solutions: of 48 answers of SmolLM2-135M-Instruct to word problems whose
#: solutions have up to 73 and 174 tokens, 35 have more than 128 and 2 more than 384, at most 391.
SHORTEST, LONGEST = 384, 1024
#: Training problems whose answers and solutions are graded, to warn of faults.
GRADED = 1000
#: Tokens of a teacher's prompt beyond which a reference solution loses its middle.
LONGEST_TEACHER = 4096
_MEMORY_KEYS = ("rollouts.batch_size", "train.micro_batch_tokens", "train.gradient_checkpointing")


#: The presets that hold the sizes of a first run, and what a small model learns with.
ON_CPU, ON_GPU = "small-cpu", "small-gpu"


@dataclass(frozen=True)
class FirstConfig:
    """A config file to be written, and what it was made from.

    Attributes:
        text: the file.
        config: the same, resolved.
        facts: what was found, as `opsd init --json` shows it.
        notes: the same, a sentence each.
        warnings: sentences about probable faults in the data.
    """

    text: str
    config: Config
    facts: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def first_config(
    model: str, data: str, assignments: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> FirstConfig:
    """Make a config for a model and its training problems.

    Args:
        model: `embedded`, a folder or a hub id.
        data: as `data.train`.
        assignments: `--set` arguments, which are written in place of suggestions.
        flags: other keys that were given, nested; None values are ignored.

    Raises:
        ConfigError: a key or value that is not valid.
        DataError: the problems cannot be read, or are too few to hold some out.
        ModelError: there is no such model, or its tokenizer or template cannot be used.
        BackendMissing: the backend's module cannot be imported.
    """
    named = {name: value for name, value in (flags or {}).items() if value is not None}
    draft = Draft(assignments, merge(named, {"model": model, "data": {"train": data}}))
    suggested = suggest(draft)
    config = draft.config
    splits = load_splits(config)
    if data != EMBEDDED:
        with open_grader(config.grading) as grader:
            grader.check()
            graded = grading_warnings(splits.train, data, grader, GRADED)
        splits = replace(splits, warnings=(*splits.warnings, *graded))
    splits = replace(splits, data_notes=(*splits.data_notes, *suggested))
    return _Suggestions(draft, splits, read_model(config), planned_device(config)).finished()


class _Suggestions:
    """The suggestions, in an order in which later ones depend on earlier ones."""

    def __init__(
        self, draft: Draft, splits: Splits, reading: ModelReading, device: PlannedDevice
    ) -> None:
        self.draft, self.put = draft, draft.put
        self.splits, self.reading, self.device = splits, reading, device
        self.preset = resolve(ON_CPU if device.on_cpu else ON_GPU)
        self.train = len(splits.train.problems)
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []

    @property
    def config(self) -> Config:
        """What the suggestions so far make."""
        return self.draft.config

    def finished(self) -> FirstConfig:
        """Make every suggestion."""
        self._problems()
        self._prompts()
        lengths = text_lengths(self.reading, self.config, self.splits.train.problems)
        self._lengths(lengths)
        self._learning()
        self._size()
        self._memory(lengths)
        self._planned_prompts(lengths)
        rollouts = self._before_step_1()
        head = (
            "A first run, made by `opsd init`. The values are starting points;",
            "`opsd presets keys` lists every key, and `opsd train --help` the flags.",
            f"{rollouts} rollouts precede step 1: preflight, validation and test before training.",
        )
        text = commented_yaml(self.draft.settings, head)
        notes = (*self.splits.data_notes, *self.notes)
        return FirstConfig(text, self.config, self.facts, notes, self.splits.warnings)

    def _problems(self) -> None:
        """Model, data, and the columns of a file."""
        shape, splits = self.reading.shape, self.splits
        size = f"a model of {shape.parameters / 1e6:,.0f} million weights" if shape else ""
        self.draft.explain("model", size, fixed=True)
        report = splits.train.report.sentence()
        self.draft.explain("data.train", f"training problems: {report}", fixed=True)
        if not is_own_file(self.config):
            return
        columns = columns_of(self.config)
        for role, column in columns.used.items():
            self.put(f"data.columns.{role}", column, f"column of the {role}")
        self.facts["columns"] = {"found": list(columns.names), "used": dict(columns.used)}
        used = ", ".join(f"{role} from {column!r}" for role, column in columns.used.items())
        self.notes.append(f"columns: {used}; the file has {', '.join(columns.names[:20])}")

    def _prompts(self) -> None:
        """Thinking where the template has it, and equal ends of both prompts."""
        thinks, problem = self.reading.thinks, self.splits.train.problems[0]
        if thinks is not None:
            self.facts["chat_template"] = self.reading.has_template
            self.facts["thinking"] = thinks
            why = "the chat template has no thinking to switch"
            if not self.reading.has_template:
                why = "no chat template: prompts are the plain text (a base model?)"
                self.notes.append(NO_CHAT_TEMPLATE)
                before = self.config.prompts.student.template.partition("{question}")[0].strip()
                if before:
                    ends = "a base model goes on with the next question: the completion ends there"
                    self.put("sampling.stop", [f"\n\n{before}"], ends)
            student = {"enable_thinking": False} if thinks else {}
            teacher = {"enable_thinking": True} if thinks else {}
            off = "the chat template can think; off for the student, as published"
            on = "and on for the teacher, as published"
            self.put("prompts.student.chat_arguments", student, off if thinks else why)
            self.put("prompts.teacher.chat_arguments", teacher, on if thinks else why)
        differs = boundary_differs(self.reading, self.config, problem)
        self.facts["boundary_differs"] = differs
        reason = {
            None: "not checked; match gives both prompts the same end",
            True: "the two prompts end differently: the teacher gets the student's end",
            False: "checked: both prompts end alike",
        }[differs]
        self.put("prompts.boundary", "keep" if differs is False else "match", reason)
        thinking = {None: "not checked", True: "the template has it", False: "none"}[thinks]
        self.notes.append(f"thinking: {thinking}; boundary: {reason}")

    def _lengths(self, lengths: TextLengths) -> None:
        """Completions and teacher prompts long enough for the data, within the context."""
        context, how = self.reading.context, lengths.how
        room = LONGEST if context is None else max(32, context - lengths.student)
        wanted = _up(2 * lengths.most_solutions, 32)
        why = f"at least {SHORTEST} for answers in the model's own words, at most {LONGEST}"
        if lengths.most_solutions:
            why = (
                f"95% of the solutions have at most {lengths.most_solutions} tokens ({how}); "
                f"twice that, {why}"
            )
        self.put("sampling.max_new_tokens", min(max(wanted, SHORTEST), LONGEST, room), why)
        most = max(LONGEST_TEACHER, _up(lengths.student + LONGEST, 64))
        if context is not None:
            most = min(most, max(64, context - self.config.sampling.max_new_tokens))
        self.put(
            "prompts.teacher.max_tokens",
            min(most, _up(lengths.teacher + lengths.teacher // 4, 64)),
            f"longest: {lengths.teacher} tokens ({how}); a longer reference loses its middle",
        )
        if self.reading.missing:
            self.notes.append(f"{self.reading.missing}: lengths are estimated")

    def _learning(self) -> None:
        """Sampling temperature, LoRA rank and learning rate by the model's size."""
        shape = self.reading.shape
        small = shape is not None and shape.parameters < SMALL
        if small:
            cooler = "cooler than the published 1.1, which is for models of 1.7 billion and more"
            self.put("sampling.temperature", self.preset.sampling.temperature, cooler)
            self.put("evaluation.temperature", self.config.sampling.temperature, "as in training")
            self.put(
                "optimizer.learning_rate", self.preset.optimizer.learning_rate,
                "a starting point, not measured; the published 5e-6 is for 1.7 billion and more",
            )  # fmt: skip
        else:
            self.put("sampling.temperature", 1.1, "as published")
            self.put("optimizer.learning_rate", 5e-6, "as published")
        parameters = shape.parameters if shape else SMALL * 2
        rank = next((rank for bound, rank in RANKS if parameters < bound), PUBLISHED_RANK)
        less = f"by the model's size; the published {PUBLISHED_RANK} is for 1.7 billion and more"
        self.put("lora.rank", rank, less if rank < PUBLISHED_RANK else "as published")

    def _size(self) -> None:
        """Steps and measured problems: few enough for a first run."""
        size, splits, train = self.preset, self.splits, self.train
        few = "few, for a first run; --steps changes it"
        self.put("train.steps", size.train.steps, few)
        self.put(
            "train.questions_per_step",
            min(size.train.questions_per_step, train),
            "--batch changes it",
        )
        every = min(size.train.evaluate_every, self.config.train.steps)
        self.put("train.evaluate_every", every)
        self.put("train.checkpoint_every", every)
        for name, most, found in (
            ("validation", size.data.validation_problems, len(splits.validation.problems)),
            ("test", size.data.test_problems, len(splits.test.problems)),
        ):
            named = getattr(self.config.data, name) or splits.train.name.startswith(EMBEDDED)
            held = (
                "the first of its set"
                if named
                else "held out of the training problems, at most 10%"
            )
            self.put(f"data.{name}_problems", min(most, found), held)
            if not named:  # the others stay in training
                self.train += found - min(found, getattr(self.config.data, f"{name}_problems"))
        if self.train != train:  # plans count with all that is in training
            self.splits = load_splits(self.config)
        self.put(
            "preflight.problems", min(size.preflight.problems, train),
            "asked of student and teacher before step 1, to see that the reference helps",
        )  # fmt: skip

    def _memory(self, lengths: TextLengths) -> None:
        """Batches that fit, and an adapter or completions that are smaller if they must be."""
        method, config = methods.get(self.config), self.config
        sequences = config.train.questions_per_step * max(1, method.rollouts_per_question())
        measured = max(config.data.validation_problems, config.data.test_problems)
        rows = min(64, max(sequences, measured))
        teacher = min(lengths.teacher, config.prompts.teacher.max_tokens or lengths.teacher)
        length = max(lengths.student, teacher) + config.sampling.max_new_tokens
        tokens = min(16384, max(2048, _up(sequences * length, 1024)))
        shape, device = self.reading.shape, self.device
        why = "not planned: the model's sizes are not known; lower it if memory runs out"
        if shape is None or device.limit is None:
            rows, tokens = min(rows, 16), min(tokens, 4096)
            if shape is not None:
                why = "not planned: the device's memory is not known; lower it if memory runs out"
        self.put("rollouts.batch_size", rows, why)
        self.put("train.micro_batch_tokens", tokens, why)
        self.put("train.gradient_checkpointing", False, why)
        self.facts["memory"] = None
        if shape is not None and device.limit is not None:
            self._fit(prompt_lengths(config, self.splits.train.problems), device.limit)
        else:
            self.notes.append(f"memory: {why}")
        self.put("lora.alpha", 2 * self.config.lora.rank, "twice the rank, as published")

    def _fit(self, prompts: memory_plan.Prompts, limit: int) -> None:
        shape, device = self.reading.shape, self.device
        assert shape is not None

        def peak(config: Config) -> int:
            return memory_plan.plan(config, shape, prompts, device.memory, device.on_cpu).peak

        config, most = self.config, int(MEMORY_SHARE * limit)
        changes = smaller_settings.nearest_that_fits(config, most, peak)
        if changes is None:
            self.notes.append(
                f"memory: {gibibytes(peak(config))} planned, of {gibibytes(limit)} on "
                f"{device.backend}: no batch, rank or length makes it fit; choose a smaller model"
            )
        for key, value in (changes or {}).items():
            self.put(key, value, "lowered until the planned memory fits")
        memory = planned_memory(self.config, self.splits, Listener())
        planned = memory.plan.peak if isinstance(memory, PlannedMemory) else peak(self.config)
        told = f"planned peak {gibibytes(planned)} of {gibibytes(limit)} on {device.backend}"
        for key in _MEMORY_KEYS:
            self.draft.explain(key, f"from the memory plan: {told}")
        self.facts["memory"] = {"peak": planned, "limit": limit, "backend": device.backend}
        self.notes.append(f"memory: {told}")

    def _planned_prompts(self, lengths: TextLengths) -> None:
        """The prompt lengths of the finished config, as a dry run counts with them."""
        prompts = prompt_lengths(self.config, self.splits.train.problems)
        planned = replace(lengths, student=prompts.student, teacher=prompts.teacher)
        self.facts["lengths"] = planned.as_dict()
        self.notes.append(planned.sentence)

    def _before_step_1(self) -> int:
        """Rollouts of preflight, validation and test before the first step."""
        config = self.config
        sizes = {
            "train": min(self.train, config.data.limit or self.train),
            "validation": config.data.validation_problems,
            "test": config.data.test_problems,
        }
        rollouts = before_step_1(config, sizes)
        self.facts |= {"problems": sizes, "rollouts_before_step_1": rollouts.total}
        self.notes.append(rollouts.sentence)
        return rollouts.total


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
