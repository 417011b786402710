"""Config sections for generating rollouts: sampling, the engine, and the vLLM server."""

from __future__ import annotations

from pydantic import Field

from opsd_cli.config.bounds import (
    Count,
    NumberList,
    Seconds,
    Section,
    Share,
    StopString,
    Temperature,
    TextList,
    Tokens,
    Whole,
)
from opsd_cli.config.choices import EngineName
from opsd_cli.config.server_settings import addresses, device_groups, names_parallelism


class SamplingSection(Section):
    temperature: Temperature = 1.1
    """Softmax temperature of sampling; 0 is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus sampling: keep the fewest tokens whose total probability is at least this."""
    top_k: Whole = 20
    """Keep the k most probable tokens; 0 keeps all."""
    min_p: Share = 0.0
    """Exclude tokens less probable than this share of the most probable token's probability."""
    max_new_tokens: Tokens = 1024
    """Maximum completion length, in tokens."""
    stop: tuple[StopString, ...] = ()
    """Stop strings: a completion ends where its text contains one of them. The text is cut before
    it; the sampled tokens, which are trained on, are kept. The teacher's analyses have none."""


class Vllm(Section):
    url: TextList = None
    """Address of a running server, or of several: a list, or text with commas between them. By
    default servers are started on this machine."""
    replicas: Count = 1
    """How many servers are started, each with a copy of the model."""
    python: str | None = None
    """Python interpreter of the environment in which vLLM is installed; by default this one."""
    adapters: str | None = None
    """Folder through which LoRA adapters are passed to the server; a server on another machine must
    see it under the same path. By default inside the run directory."""
    devices: NumberList = None
    """GPUs for the servers that are started, as CUDA_VISIBLE_DEVICES names them: a list, or text
    with commas (`1`, `2,3`). Each server gets an equal number of them in this order, and spreads
    the model over its own. By default those that the trainer sees."""
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    """Share of a GPU's memory for each server that is started; the trainer uses the rest."""
    sleep: bool = False
    """Free the servers' GPU memory while the trainer computes gradients, if both share one GPU."""
    startup_seconds: Seconds = 900
    """Timeout for a server's start, in seconds."""
    request_seconds: Seconds = 1800
    """Timeout for one completion, in seconds."""
    restarts: Whole = 3
    """How many times each server that crashed is started again."""
    arguments: tuple[str, ...] = ()
    """Additional command-line arguments for a server that is started."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses in `url`; empty if servers are started."""
        return () if self.url is None else addresses(self.url)

    @property
    def device_groups(self) -> list[str | None]:
        """The GPUs of each server that is started; None for those that the trainer sees."""
        return device_groups(self.devices, self.replicas)

    @property
    def names_parallelism(self) -> bool:
        """True if an argument says how a server spreads the model over its GPUs."""
        return any(map(names_parallelism, self.arguments))


class Rollouts(Section):
    engine: EngineName = "builtin"
    """Rollout engine: the backend's own (`builtin`), or a vLLM server."""
    per_question: Count | None = None
    """Completions per question; by default 1 for opsd, or 8 with teacher.reference: sibling or
    teacher.contrast: wrong_rollout, and 8 for grpo and hybrid."""
    batch_size: Count = 64
    """Sequences decoded at the same time; with vLLM, concurrent requests to all servers."""
    overlap: bool = False
    """With vLLM: generate the next step's rollouts during this step's gradient computation. Their
    policy is then one step old; metrics report it as `staleness`."""
    importance_cap: float | None = Field(None, ge=1, le=1e30)
    """With vLLM: truncated importance sampling. Each token is weighted by the ratio of its
    probability under the trainer to that under the sampler, capped at this value. Costs one extra
    forward pass over the rollouts."""
    vllm: Vllm = Vllm()
    """The vLLM servers."""
