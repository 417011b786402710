"""What a run is: one frozen schema, whose field docstrings are the help text.

A config is resolved in one order, each later source winning: preset, file, `--set`, flag. Defaults
written here are where a model without a preset starts: mostly the values of OPSD's final recipe
(arXiv 2601.18734), but unclipped. A published recipe in full is a preset, and docs/recipes.md has
its values beside the published ones; the `embedded` preset, used whenever the model is the embedded
one and no preset is named, replaces what a model of under a million parameters needs otherwise.

Nothing here imports a GPU library, so every shipped config is parsed by a test anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import Field, model_validator

from opsd_cli.config.bounds import (
    LARGEST_SEED,
    LEAST_TEMPERATURE,
    BelowOne,
    ChatArguments,
    Count,
    NotNegative,
    Positive,
    Seconds,
    Section,
    Share,
    Temperature,
    Tokens,
    Whole,
)
from opsd_cli.config.server_settings import wrong_address, wrong_arguments
from opsd_cli.losses.divergence import DivergenceSpec, Kind
from opsd_cli.prompts.rendering import STUDENT_TEMPLATE, require_placeholders
from opsd_cli.prompts.teacher import ANALYSIS_TEMPLATE, TEACHER_TEMPLATE

EMBEDDED = "embedded"
OPSD: Final = "opsd"
MethodName = Literal["opsd", "grpo", "sft", "hybrid"]
METHODS: tuple[str, ...] = get_args(MethodName)


class Columns(Section):
    question: str | None = None
    """Column that holds the question; by default `question`, else `problem`."""
    solution: str | None = None
    """Column that holds the verified reference solution; by default `solution`."""
    answer: str | None = None
    """Column that holds the final answer; by default `answer`, else the solution's last box."""
    id: str | None = None
    """Column that names a problem; by default a digest of its question."""


class Data(Section):
    train: str | None = None
    """Problems to learn from: `embedded`, a set that `opsd data` lists, a hub id
    (ORG/NAME@REVISION:SUBSET:SPLIT), a YAML description, or a JSONL, JSON, CSV or Parquet file."""
    validation: str | None = None
    """Problems that choose the best checkpoint; by default held out from `train`."""
    test: str | None = None
    """Problems that are reported and never chosen on; by default held out from `train`."""
    columns: Columns = Columns()
    """Which columns of a file or hub set hold what; catalogued sets and YAML files say it
    themselves."""
    limit: Count | None = None
    """Use only the first so many training problems."""
    validation_problems: Count = 200
    """Use at most so many validation problems (and hold out no more)."""
    test_problems: Count = 400
    """Use at most so many test problems (and hold out no more)."""


class StudentPrompt(Section):
    template: str = STUDENT_TEMPLATE
    """The student's user turn; contains {question} once."""
    system: str | None = None
    """A system turn before it."""
    chat_arguments: ChatArguments = Field({"enable_thinking": False})
    """Arguments of the chat template."""

    @model_validator(mode="after")
    def _placeholders(self) -> StudentPrompt:
        require_placeholders(self.template, ["question"], "prompts.student.template")
        return self


class TeacherPrompt(Section):
    template: str = TEACHER_TEMPLATE
    """The teacher's user turn; contains {question} and {solution} once each."""
    system: str | None = None
    """A system turn before it."""
    chat_arguments: ChatArguments = Field({"enable_thinking": True})
    """Arguments of the chat template."""
    max_tokens: Tokens | None = None
    """Longest teacher prompt; a longer reference solution is shortened from its middle."""
    analysis_template: str = ANALYSIS_TEMPLATE
    """With teacher.reason_first, asks for the analysis; contains {question} and {solution}. The
    analysis goes where `template` says {analysis}, else below the solution."""

    @model_validator(mode="after")
    def _placeholders(self) -> TeacherPrompt:
        names = ["question", "solution"]
        require_placeholders(self.template, names, "prompts.teacher.template")
        require_placeholders(self.analysis_template, names, "prompts.teacher.analysis_template")
        return self


class Prompts(Section):
    student: StudentPrompt = StudentPrompt()
    """What the student sees."""
    teacher: TeacherPrompt = TeacherPrompt()
    """What the teacher sees."""
    boundary: Literal["keep", "match"] = "keep"
    """Where the two chat templates open the answer differently: `keep` warns, `match` gives the
    teacher the student's opening."""


class Divergence(Section):
    kind: Kind = "forward_kl"
    """forward_kl KL(T||S), reverse_kl KL(S||T), or jsd."""
    beta: Share = 0.5
    """JSD's weight of the teacher in the mixture."""
    temperature: float = Field(1.1, ge=LEAST_TEMPERATURE, le=1e3)
    """Both logits are divided by this inside the loss."""
    clip: Literal["none", "pointwise", "token"] = "none"
    """none, pointwise (each vocabulary term, the paper's), or token (the summed divergence)."""
    clip_at: Positive = 0.05
    """The cap of either clip."""
    top_k: Count | None = None
    """Compare on the teacher's k most probable tokens only; default the full vocabulary."""
    tail: bool = True
    """With top_k: keep the rest of the mass as one bucket, instead of renormalising."""

    vocabulary: Literal["full", "sampled"] = "full"
    """full, or the sampled token alone: its log-ratio of teacher to student as an advantage."""

    def spec(self) -> DivergenceSpec:
        return DivergenceSpec(**self.model_dump(exclude={"vocabulary"}))


class Teacher(Section):
    weights: Literal["initial", "live", "ema"] = "initial"
    """Whose weights the teacher has: the start's, the current ones, or their moving average."""
    ema_decay: BelowOne = 0.99
    """Share of the moving average kept at each step."""
    reason_first: bool = False
    """The teacher first writes an analysis of the solution, which then joins its context."""
    analysis_tokens: Tokens = 512
    """Longest analysis."""


class SamplingSection(Section):
    temperature: Temperature = 1.1
    """0 is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Keep the fewest tokens whose probability reaches this."""
    top_k: Whole = 20
    """Keep the k most probable tokens; 0 keeps all."""
    min_p: Share = 0.0
    """Drop tokens below this share of the most probable one's probability."""
    max_new_tokens: Tokens = 1024
    """Longest completion."""


class Vllm(Section):
    url: str | None = None
    """A server that runs already; by default one is started on this machine."""
    python: str | None = None
    """The interpreter of the environment that has vLLM; by default this one."""
    adapters: str | None = None
    """Folder in which adapters are handed over; a server elsewhere must see it by this path. By
    default inside the run's directory."""
    devices: str | None = None
    """The GPUs of a server that is started, as CUDA_VISIBLE_DEVICES names them (`1`, `2,3`); by
    default those that the trainer sees."""
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    """Share of the GPU's memory for a server that is started; the rest is the trainer's."""
    sleep: bool = False
    """Let the server give its memory up while the trainer learns, where both share one GPU."""
    startup_seconds: Seconds = 900
    """How long a server may take to start."""
    request_seconds: Seconds = 1800
    """How long one completion may take."""
    restarts: Whole = 3
    """How often a server that died is started again."""
    arguments: tuple[str, ...] = ()
    """More arguments for a server that is started."""


class Rollouts(Section):
    engine: Literal["builtin", "vllm"] = "builtin"
    """What draws the rollouts: the backend's own engine, or a vLLM server."""
    per_question: Count | None = None
    """Completions a question; by default 1 for opsd, 8 for grpo and hybrid."""
    batch_size: Count = 64
    """Sequences decoded at once; with vLLM, requests under way at once."""
    overlap: bool = False
    """With vLLM: draw the next step's rollouts while this one is learnt. They then come from
    weights one step old, which is counted (`staleness`)."""
    importance_cap: float | None = Field(None, ge=1, le=1e30)
    """With vLLM: weigh each token by the trainer's probability over the sampler's, at most this
    (truncated importance sampling). Costs a pass over the rollouts."""
    vllm: Vllm = Vllm()
    """The vLLM server."""


class Grpo(Section):
    scale: Literal["group", "none"] = "group"
    """Divide a group's advantages by its standard deviation, or not (Dr. GRPO)."""
    loss: Literal["grpo", "dapo", "dr_grpo"] = "grpo"
    """Mean over a completion's tokens, then over completions; over all tokens (DAPO); or with
    the length limit as the denominator (Dr. GRPO)."""
    clip_low: BelowOne = 0.2
    """How far below 1 the ratio to the old policy may count."""
    clip_high: NotNegative = 0.2
    """How far above 1; more than clip_low is DAPO's clip-higher."""
    kl: NotNegative = 0.0
    """Weight of the penalty on leaving the initial policy."""
    minibatches: Count = 1
    """Optimiser steps a pass; with one, and one pass, no clip can take hold."""
    zero_variance: Literal["keep", "resample"] = "keep"
    """What to do with a question whose completions are all right or all wrong: keep it, without a
    gradient, or draw another question in its place (DAPO)."""
    resampling_rounds: Count = 3
    """With resample: how often in a step."""


class Hybrid(Section):
    mix: Share = 0.5
    """Share of a token's advantage that the teacher sizes; 0 is GRPO."""
    spread: float = Field(0.5, gt=0, lt=1)
    """The greatest relative change of a token's weight."""
    decay_updates: Count | None = None
    """Optimiser updates (passes × minibatches a step) over which `mix` falls linearly to 0; null
    keeps it."""


class Sft(Section):
    max_tokens: Tokens | None = None
    """Longest sequence, prompt included; a longer reference loses its end. By default what the
    model can read."""


class Lora(Section):
    rank: Count = 64
    """Rank of the adapter."""
    alpha: Positive = 128
    """Scale: the update is multiplied by alpha / rank."""
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Linear layers that get an adapter, by the last part of their name."""
    dropout: BelowOne = 0.0
    """Dropout before the adapter."""
    dora: bool = False
    """Weight-decomposed LoRA."""
    rslora: bool = False
    """Rank-stabilised scaling, alpha / sqrt(rank)."""


class Optimizer(Section):
    learning_rate: Positive = 5e-6
    """Peak rate of AdamW."""
    max_grad_norm: Positive = 0.1
    """Gradients are scaled down to this norm."""
    warmup_steps: Whole = 0
    """Steps over which the rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls after warm-up: not, or to 0 at the last step."""
    schedule_steps: Count | None = None
    """The step at which it has fallen to 0; by default the last. More than train.steps is a run
    that is stopped early."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """AdamW's moment decays, each below 1."""


class Train(Section):
    steps: Count = 100
    """Optimiser steps where `passes` is 1: batches of questions, each learnt from `passes` times
    over."""
    questions_per_step: Count = 32
    """Questions a step."""
    reduction: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens of a step (the paper's code), or over each rollout's tokens and then
    over rollouts (its formula)."""
    passes: Count = 1
    """Gradient passes over each step's rollouts: fewer tokens generated, more trained on."""
    evaluate_every: Count = 10
    """Steps between validations."""
    checkpoint_every: Count = 10
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept besides the best."""
    patience: Count | None = 5
    """Stop after so many validations in a row below the best; null never stops."""
    curve: bool = False
    """Measure the test split too at every validation; it is reported and decides nothing."""
    micro_batch_tokens: Tokens = 16384
    """Most padded tokens in one forward pass."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    loss_kernel: Literal["auto", "plain", "triton"] = "auto"
    """How a GPU computes the divergence: by the plain operations, by one Triton kernel, or by
    whichever is faster when both are tried on the first chunk."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen weights: auto is bfloat16 on a GPU and float32 on a CPU."""


class Preflight(Section):
    enabled: bool = True
    """Measure, before the first step, whether the reference helps the teacher; stop if not."""
    problems: Count = 32
    """Problems it is measured on."""


class EvaluationSection(Section):
    samples: Count = 1
    """Completions a problem."""
    sampling: Literal["stated", "recommended"] = "stated"
    """stated: the numbers below; recommended: what the model's authors say (`opsd eval` tells where
    they say it)."""
    temperature: Temperature = 1.0
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """As in sampling."""
    top_k: Whole = 0
    """As in sampling."""
    min_p: Share = 0.0
    """As in sampling."""
    thinking: bool | None = None
    """Ask the chat template for a think block, or not; by default as the student's prompt does."""
    template: str | None = None
    """The user turn; contains {question} once. By default the student's; a set with a prompt of its
    own keeps that."""
    max_new_tokens: Tokens | None = None
    """Longest completion; by default sampling.max_new_tokens."""

    @model_validator(mode="after")
    def _placeholders(self) -> EvaluationSection:
        if self.template is not None:
            require_placeholders(self.template, ["question"], "evaluation.template")
        return self


class Grading(Section):
    deadline_seconds: Seconds = 10.0
    """A grade not reached by then is a timeout, which counts as wrong."""


class Config(Section):
    model: str = EMBEDDED
    """`embedded`, a folder, or a hub id."""
    revision: str | None = None
    """Hub revision of the model."""
    trust_remote_code: bool = False
    """Run model code that comes with the weights."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's format to start from."""
    backend: Literal["auto", "mlx", "cuda", "cpu"] = "auto"
    """Where to run."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Everything random derives from it."""
    log: tuple[Literal["trackio", "wandb", "tensorboard"], ...] = ()
    """Dashboards that get a copy of the metrics; none goes over the network unless it is told to
    (WANDB_MODE=online)."""
    method: MethodName = OPSD
    """How to learn: self-distillation, rewards alone, the reference solutions, or rewards sized by
    the teacher."""
    data: Data = Data()
    """Which problems."""
    prompts: Prompts = Prompts()
    """What student and teacher see."""
    divergence: Divergence = Divergence()
    """What is lowered."""
    teacher: Teacher = Teacher()
    """Whose weights the teacher has."""
    sampling: SamplingSection = SamplingSection()
    """How training rollouts are drawn."""
    rollouts: Rollouts = Rollouts()
    """What draws them, and how many."""
    grpo: Grpo = Grpo()
    """Rewards: grpo and hybrid."""
    hybrid: Hybrid = Hybrid()
    """Rewards sized by the teacher."""
    sft: Sft = Sft()
    """The reference solutions."""
    lora: Lora = Lora()
    """The trainable adapter."""
    optimizer: Optimizer = Optimizer()
    """AdamW."""
    train: Train = Train()
    """The loop."""
    preflight: Preflight = Preflight()
    """The check before the first step."""
    evaluation: EvaluationSection = EvaluationSection()
    """How accuracy is measured."""
    grading: Grading = Grading()
    """How answers are compared."""

    @model_validator(mode="after")
    def _rollouts_fit(self) -> Config:
        rollouts = self.rollouts
        if rollouts.engine == "builtin" and (rollouts.overlap or rollouts.importance_cap):
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
        wrong = wrong_address(rollouts.vllm.url) or wrong_arguments(rollouts.vllm.arguments)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    @property
    def thinks(self) -> bool:
        """Whether evaluations ask for a think block; chat templates that know of one open it unless
        they are told not to."""
        asked = self.prompts.student.chat_arguments.get("enable_thinking", True)
        return bool(asked if self.evaluation.thinking is None else self.evaluation.thinking)

    @property
    def model_path(self) -> str:
        """What to hand to a loader: the embedded model's folder, or `model` as it stands."""
        from opsd_cli.embedded import MODEL_DIR

        return str(MODEL_DIR) if self.model == EMBEDDED else self.model

    @property
    def is_local(self) -> bool:
        """Whether the model is a folder on this machine."""
        try:
            return Path(self.model_path).is_dir()
        except OSError:  # no name that a folder could have
            return False
