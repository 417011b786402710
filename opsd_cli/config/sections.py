"""Config sections for data, prompts, methods, optimisation and evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from opsd_cli.config.bounds import (
    LARGEST_SEED,
    BelowOne,
    ChatArguments,
    Count,
    NotNegative,
    Positive,
    Section,
    Share,
    StopString,
    Temperature,
    Tokens,
    Whole,
)
from opsd_cli.prompts.rendering import STUDENT_TEMPLATE, require_placeholders
from opsd_cli.prompts.teacher import ANALYSIS_TEMPLATE, SYSTEM_TEMPLATE, TEACHER_TEMPLATE


class Columns(Section):
    question: str | None = None
    """Column of the question; by default `question`, else `problem`."""
    solution: str | None = None
    """Column of the verified reference solution; by default `solution`."""
    answer: str | None = None
    """Column of the final answer; by default `answer`, else the last box of the solution."""
    id: str | None = None
    """Column of the problem's identifier; by default a digest of its question."""


class Data(Section):
    train: str | None = None
    """Training problems: `embedded`, a set that `opsd data` lists, a hub id
    (ORG/NAME@REVISION:SUBSET:SPLIT), a YAML description, or a JSONL, JSON, CSV or Parquet file."""
    validation: str | None = None
    """Problems on which the best checkpoint is selected; by default held out from `train`."""
    test: str | None = None
    """Problems on which accuracy is reported and nothing is selected; by default held out from
    `train`."""
    watch: str | None = None
    """Problems of another kind, measured before training and at the end, which select nothing."""
    columns: Columns = Columns()
    """Columns of a file or hub data set; sets of the catalogue and YAML descriptions name their
    own."""
    fields: tuple[str, ...] = ()
    """More columns that the problems keep, for graders and reference templates that read them."""
    usable_for: tuple[str, ...] = ()
    """Other values of teacher.reference that every training problem must be usable for: rows
    without a solution, or a column, that one of them needs are left out. `opsd compare` sets it
    where its arms would train on different rows."""
    limit: Count | None = None
    """Maximum number of training problems: the first ones are used."""
    validation_problems: Count = 200
    """Maximum number of validation problems, used or held out."""
    test_problems: Count = 400
    """Maximum number of test problems, used or held out."""
    watch_problems: Count = 200
    """Maximum number of watch problems."""


class StudentPrompt(Section):
    template: str = STUDENT_TEMPLATE
    """The student's user turn, of a chat the last; contains {question} once."""
    system: str | None = None
    """System turn before the user turn; a chat's own system turn takes its place."""
    chat_arguments: ChatArguments = Field({"enable_thinking": False})
    """Arguments of the tokenizer's chat template."""

    @model_validator(mode="after")
    def _placeholders(self) -> StudentPrompt:
        require_placeholders(self.template, ["question"], "prompts.student.template")
        return self


class TeacherPrompt(Section):
    template: str = TEACHER_TEMPLATE
    """The teacher's user turn; contains {question} and {solution} once each. {solution} is the
    place of the reference, whatever teacher.reference is, and left as it is the template has the
    words for that reference (docs/references.md)."""
    system: str | None = None
    """As prompts.student.system."""
    chat_arguments: ChatArguments = Field({"enable_thinking": True})
    """Arguments of the tokenizer's chat template."""
    max_tokens: Tokens | None = None
    """Maximum length of the teacher's prompt, in tokens; a longer reference loses its middle."""
    place: Literal["last_turn", "system"] = "last_turn"
    """Where the reference stands: in the last user turn, by `template`, or in the system turn, by
    `system_template`; the user's turns are then the student's own."""
    system_template: str = SYSTEM_TEMPLATE
    """With place: system: what is added to the system turn; contains {solution} once."""
    analysis_template: str = ANALYSIS_TEMPLATE
    """With teacher.reason_first: the prompt for the analysis; contains {question} and {solution}.
    The analysis replaces {analysis} in `template`, or follows the reference if there is none."""

    @model_validator(mode="after")
    def _placeholders(self) -> TeacherPrompt:
        names = ["question", "solution"]
        require_placeholders(self.template, names, "prompts.teacher.template")
        require_placeholders(self.analysis_template, names, "prompts.teacher.analysis_template")
        require_placeholders(self.system_template, names[1:], "prompts.teacher.system_template")
        return self


class FewShot(Section):
    examples: Whole = 0
    """Number of worked examples before the question, in the prompts of both roles: a user and an
    assistant turn each, or text if the model has no chat template. The user turns are in the words
    of the role's template; the teacher's have their references."""
    source: str | None = None
    """Set or file whose first problems they are; by default they are drawn from the training
    problems, which are then not trained on."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of that draw; it is not the run's, so that evaluations with other seeds have the same
    examples."""
    response: str | None = None
    """The answer of an example; contains {solution}, {answer} or both. By default the solution,
    followed by the answer in a box unless the solution marks its answer."""

    @model_validator(mode="after")
    def _placeholders(self) -> FewShot:
        if self.response is not None:
            one = "answer" if "{answer}" in self.response else "solution"
            require_placeholders(self.response, [one], "prompts.few_shot.response")
        return self


class Prompts(Section):
    student: StudentPrompt = StudentPrompt()
    """The student's prompt."""
    teacher: TeacherPrompt = TeacherPrompt()
    """The teacher's prompt, which contains the reference."""
    few_shot: FewShot = FewShot()
    """Worked examples before the question."""
    boundary: Literal["keep", "match"] = "keep"
    """If the two chat templates end the prompt differently before the answer: `keep` warns, `match`
    gives the teacher the student's ending."""


class Grpo(Section):
    scale: Literal["group", "none"] = "group"
    """Divide a group's advantages by its rewards' standard deviation, or not (Dr. GRPO)."""
    loss: Literal["grpo", "dapo", "dr_grpo"] = "grpo"
    """Normalisation of the loss: mean over each completion's tokens and then over completions
    (grpo), mean over all tokens (dapo), or division by the length limit (dr_grpo)."""
    clip_low: BelowOne = 0.2
    """Clip range of the probability ratio below 1."""
    clip_high: NotNegative = 0.2
    """Clip range of the probability ratio above 1; greater than clip_low is DAPO's clip-higher."""
    kl: NotNegative = 0.0
    """Coefficient of the KL penalty towards the initial policy."""
    minibatches: Count = 1
    """Optimiser steps per pass over the rollouts. With one minibatch and one pass the ratio is 1
    and nothing is clipped."""
    zero_variance: Literal["keep", "resample"] = "keep"
    """Zero-variance groups, whose completions are all right or all wrong: keep them, without a
    gradient, or resample another question for each (DAPO)."""
    resampling_rounds: Count = 3
    """With resample: maximum number of resampling rounds per step."""


class Hybrid(Section):
    mix: Share = 0.5
    """Share of a token's advantage that is scaled by the teacher; 0 is GRPO."""
    spread: float = Field(0.5, gt=0, lt=1)
    """Maximum relative change of a token's weight."""
    decay_updates: Count | None = None
    """Optimiser updates (passes × minibatches per step) over which `mix` decreases linearly to 0;
    null keeps it constant."""


class Sft(Section):
    max_tokens: Tokens | None = None
    """Maximum sequence length in tokens, prompt included; a longer reference solution is truncated
    at its end. By default the model's context length."""


class Lora(Section):
    rank: Count = 64
    """Rank of the adapter."""
    alpha: Positive = 128
    """Scaling: the adapter's update is multiplied by alpha / rank."""
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Linear layers that get an adapter, by the last part of their name."""
    dropout: BelowOne = 0.0
    """Dropout probability at the adapter's input."""
    dora: bool = False
    """Weight-decomposed LoRA (DoRA)."""
    rslora: bool = False
    """Rank-stabilised scaling: alpha / sqrt(rank)."""


class Optimizer(Section):
    learning_rate: Positive = 5e-6
    """Peak learning rate of AdamW."""
    max_grad_norm: Positive = 0.1
    """Gradients of a greater L2 norm are scaled down to this norm."""
    warmup_steps: Whole = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning-rate schedule after warm-up: constant, or decay to 0 at the last step."""
    schedule_steps: Count | None = None
    """Step at which the schedule reaches 0; by default the last. A value above train.steps
    reproduces a longer run that is stopped early."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """Decay rates of AdamW's first and second moments, each below 1."""


class Train(Section):
    steps: Count = 100
    """Optimiser steps if `passes` is 1: each generates rollouts for one batch of questions, and
    trains on them `passes` times."""
    questions_per_step: Count = 32
    """Questions per step."""
    reduction: Literal["tokens", "sequences"] = "tokens"
    """Loss reduction: mean over all tokens of a step (the paper's code), or mean over each
    rollout's tokens and then over rollouts (the paper's formula)."""
    learn_from: Literal["all", "correct", "incorrect"] = "all"
    """With opsd: the rollouts that are learnt from, by their grade; the others are sampled, graded
    and left out of the loss."""
    weigh_groups: Literal["none", "pass_rate"] = "none"
    """With opsd and several rollouts a question: pass_rate weighs a question of whose rollouts a
    share p is right by sqrt(p (1 - p)); one with all right or all wrong is left out."""
    anchor: Literal["none", "kl", "sft"] = "none"
    """With opsd, a second loss in every update that holds the student near its beginning: kl, the
    KL divergence of the student from the initial policy on the student's own rollouts, or sft, the
    cross-entropy of the reference solutions."""
    anchor_weight: NotNegative = 0.1
    """Weight of the anchor's loss beside the divergence."""
    passes: Count = 1
    """Gradient passes over each step's rollouts; more passes train on more tokens for the same
    number of generated ones."""
    evaluate_every: Count = 10
    """Steps between validations."""
    checkpoint_every: Count = 10
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Number of newest checkpoints kept in addition to the best."""
    patience: Count | None = 5
    """Early stopping: stop after this many validations in a row without improvement; null never
    stops early."""
    curve: bool = False
    """Evaluate on the test split too at every validation; nothing is selected on it."""
    test_at_end: bool = False
    """Measure the test split only after the last step, with the weights kept in checkpoints: the
    same numbers as otherwise, and no test problem is sampled before. With `curve` the checkpoint of
    every validation is kept until then."""
    micro_batch_tokens: Tokens = 16384
    """Maximum number of tokens in one forward pass, padding included."""
    reduce: Literal["fast", "exact"] = "fast"
    """How gradients are added up over devices: in the order that is fastest, or in one that makes
    the sum the same, bit for bit, on 1, 2, 4 or 8 devices (exact; each step's rollouts are then
    read in 8 groups, on one device too)."""
    shard: Literal["none", "full", "auto"] = "auto"
    """Whether several devices (`--devices`) divide the frozen base among them: each holds it whole
    (none), each holds a part of every layer (full), or full where it does not fit one device by the
    memory plan and the rollout engine allows it (auto). On one device it is always whole."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    loss_kernel: Literal["auto", "plain", "triton"] = "auto"
    """Divergence kernel on a GPU: framework operations (plain), one Triton kernel (triton), or the
    faster of the two on the first chunk (auto)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the frozen weights; auto is bfloat16 on a GPU and float32 on a CPU."""


class Preflight(Section):
    enabled: bool = True
    """Before the first step, measure whether the reference makes the teacher more accurate than the
    student; stop if it does not."""
    problems: Count = 32
    """Number of problems it is measured on."""


class EvaluationSection(Section):
    samples: Count = 1
    """Completions per problem."""
    sampling: Literal["stated", "recommended"] = "stated"
    """stated: the sampling values below; recommended: those published by the model's authors (`opsd
    eval` names the source)."""
    temperature: Temperature = 1.0
    """Softmax temperature of sampling; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """As sampling.top_p."""
    top_k: Whole = 0
    """As sampling.top_k."""
    min_p: Share = 0.0
    """As sampling.min_p."""
    thinking: bool | None = None
    """Value of the chat template's enable_thinking; by default as in the student's prompt."""
    template: str | None = None
    """User turn of evaluations; contains {question} once. By default the student's; a problem set
    with a prompt of its own keeps that."""
    max_new_tokens: Tokens | None = None
    """Maximum completion length, in tokens; by default sampling.max_new_tokens."""
    stop: tuple[StopString, ...] | None = None
    """Stop strings; by default sampling.stop."""

    @model_validator(mode="after")
    def _placeholders(self) -> EvaluationSection:
        if self.template is not None:
            require_placeholders(self.template, ["question"], "evaluation.template")
        return self
