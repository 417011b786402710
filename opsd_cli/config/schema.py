"""The config: one frozen pydantic model whose field docstrings are the help text.

Defaults are those for a model without a preset: mostly the values of OPSD's final recipe
(arXiv 2601.18734), but without clipping. A complete published recipe is a preset, and
docs/recipes.md compares its values with the published ones. The `embedded` preset, which applies to
the embedded model unless another preset is named, overrides what a model of under a million
parameters needs otherwise.

Nothing here imports a GPU library, so a test parses every shipped config on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, model_validator

from opsd_cli.config.bounds import LARGEST_SEED, Section
from opsd_cli.config.choices import BackendName, MethodName, TrackerName
from opsd_cli.config.divergence_section import Divergence, wrong_strength
from opsd_cli.config.grading_section import Grading, wrong_graders, wrong_without_grades
from opsd_cli.config.rollout_sections import Rollouts, SamplingSection
from opsd_cli.config.sections import (
    Data,
    EvaluationSection,
    Grpo,
    Hybrid,
    Lora,
    Optimizer,
    Preflight,
    Prompts,
    Sft,
    Train,
)
from opsd_cli.config.server_settings import wrong_address, wrong_arguments, wrong_servers
from opsd_cli.config.teacher_section import (
    Teacher,
    name_and_revision,
    wrong_model,
    wrong_reference,
)
from opsd_cli.embedded import EMBEDDED, MODEL_DIR

#: The method of a config that names none.
DEFAULT_METHOD = "opsd"


class Config(Section):
    model: str = EMBEDDED
    """Base model: `embedded`, a local folder, or a hub id."""
    revision: str | None = None
    """Hub revision of the model: a branch, tag or commit."""
    trust_remote_code: bool = False
    """Run model code that comes with the weights."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's format to start from."""
    backend: BackendName = "auto"
    """Where to run: mlx, or PyTorch on cuda or cpu; auto chooses what works on this machine."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed from which every random number of a run derives."""
    log: tuple[TrackerName, ...] = ()
    """Experiment trackers that receive the metrics; they stay offline unless their own settings
    say otherwise (WANDB_MODE=online)."""
    method: MethodName = DEFAULT_METHOD
    """Training method: opsd (on-policy self-distillation), grpo (rewards), sft (the reference
    solutions) or hybrid (rewards scaled by the teacher)."""
    data: Data = Data()
    """Which problems to train and evaluate on."""
    prompts: Prompts = Prompts()
    """Prompts of student and teacher."""
    divergence: Divergence = Divergence()
    """The loss of opsd."""
    teacher: Teacher = Teacher()
    """The teacher's model, reference, weights and analyses."""
    sampling: SamplingSection = SamplingSection()
    """Sampling of training rollouts."""
    rollouts: Rollouts = Rollouts()
    """Rollout engine and number of rollouts."""
    grpo: Grpo = Grpo()
    """Advantages and loss of grpo and hybrid."""
    hybrid: Hybrid = Hybrid()
    """The teacher's part in hybrid."""
    sft: Sft = Sft()
    """Sequences of sft."""
    lora: Lora = Lora()
    """The trainable LoRA adapter."""
    optimizer: Optimizer = Optimizer()
    """AdamW and its schedule."""
    train: Train = Train()
    """The training loop."""
    preflight: Preflight = Preflight()
    """The measurement before the first step."""
    evaluation: EvaluationSection = EvaluationSection()
    """Prompts and sampling of evaluations."""
    grading: Grading = Grading()
    """Grading of answers."""

    @model_validator(mode="after")
    def _rollouts_fit(self) -> Config:
        from backends.rollout_engines import get_engine

        rollouts = self.rollouts
        separate = get_engine(rollouts.engine).separate_from_trainer
        if not separate and (rollouts.overlap or rollouts.importance_cap):
            name = "overlap" if rollouts.overlap else "importance_cap"
            raise ValueError(
                f"rollouts.{name} needs vLLM: the built-in engine draws with the weights that learn"
                f"\nset rollouts.engine=vllm, or leave rollouts.{name} out"
            )
        if rollouts.overlap and rollouts.vllm.sleep:
            raise ValueError(
                "rollouts.overlap and rollouts.vllm.sleep exclude each other"
                "\na server that sleeps while the trainer learns cannot draw; leave one out"
            )
        vllm = rollouts.vllm
        wrong = (
            wrong_address(vllm.url)
            or wrong_arguments(vllm.arguments)
            or wrong_servers(vllm.url, vllm.replicas, vllm.devices, vllm.gpu_memory_utilization)
            or wrong_graders(self.grading)
            or wrong_model(self.teacher)
            or wrong_without_grades(self.grading, self.train, self.teacher.reference)
            or wrong_strength(self.divergence)
            or wrong_reference(self.teacher, rollouts.per_question, self.grading)
        )
        if wrong is not None:
            raise ValueError(wrong)
        return self

    @property
    def teacher_config(self) -> Config | None:
        """The config that loads `teacher.model`, without an adapter; None where there is none."""
        if self.teacher.model is None:
            return None
        name, revision = name_and_revision(self.teacher.model)
        train = self.train.model_copy(update={"shard": "none"})
        own = {"model": name, "revision": revision, "adapter": None, "teacher": Teacher()}
        return self.model_copy(update={**own, "train": train})

    @property
    def thinks(self) -> bool:
        """True if evaluations enable thinking; chat templates that support it do so by default."""
        asked = self.prompts.student.chat_arguments.get("enable_thinking", True)
        return bool(asked if self.evaluation.thinking is None else self.evaluation.thinking)

    @property
    def model_path(self) -> str:
        """The argument of a model loader: the embedded model's folder, or `model` unchanged."""
        return str(MODEL_DIR) if self.model == EMBEDDED else self.model

    @property
    def is_local(self) -> bool:
        """True if the model is a folder on this machine."""
        try:
            return Path(self.model_path).is_dir()
        except OSError:  # a name that no folder can have
            return False


def key_paths(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of the schema with its pydantic field, sections included."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from key_paths(field.annotation, f"{path}.")


def described_keys() -> dict[str, dict[str, Any]]:
    """Every dotted key that holds a value, with its default and its help text."""
    return {
        path: {"default": field.default, "help": " ".join((field.description or "").split())}
        for path, field in key_paths()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
    }
