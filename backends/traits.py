"""What a backend declares about itself: numbers and facts that need no framework to be read.

A backend's class carries one `BackendTraits` as its attribute `traits`. The module of that class
imports its framework only inside methods, so every declaration can be read on a machine where the
framework is not installed: `auto` can be ordered, a missing extra named and a memory plan made.
"""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata

DISTRIBUTION = "opsd-cli"
#: (sys.platform, platform.machine()) of a kind of computer.
Platform = tuple[str, str]
APPLE_SILICON: Platform = ("darwin", "arm64")


def install_command(extra: str) -> str:
    """The shell command that installs the packages of an extra of this distribution, by name.

    They are those that the installed distribution's metadata gives for this kind of computer;
    where it gives none, the extra is named.
    """
    from packaging.requirements import Requirement

    try:
        required = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        required = []
    found = []
    for each in required:
        marker, each.marker = each.marker, None
        if marker is not None and marker.evaluate({"extra": extra}) > marker.evaluate(
            {"extra": ""}
        ):
            found.append(str(each))
    return f"pip install {shlex.join(found or [f'{DISTRIBUTION}[{extra}]'])}"


@dataclass(frozen=True)
class MemoryTraits:
    """Arrays that a framework keeps in memory, as the memory plan counts them.

    The factors were fitted to measured peaks (`benchmarks/memory_plan.py`). Each counts arrays of
    the named shape, per micro-batch, in the dtype of the activations unless stated otherwise.

    Attributes:
        chunk_bytes: bytes of one role's float32 logits in a chunk of the divergence.
        chunk_copies: arrays of a chunk's logits that exist at once.
        hidden: arrays of [tokens, hidden] that a block keeps for its backward pass.
        intermediate: arrays of [tokens, intermediate] that a block keeps.
        heads: arrays of [tokens, (heads + 2 × key-value heads) × head_dim] that a block keeps.
        scores: arrays of [heads, length, length] that a block keeps for each row; 0 for fused
            attention.
        transient_blocks: blocks' worth of arrays that exist for a while beside the kept ones.
        recomputed_blocks: the same with gradient checkpointing.
        boundary: arrays of [tokens, hidden] that gradient checkpointing keeps for each block.
        length_multiple: sequence lengths are padded to a multiple of this many tokens.
        loss_beside_transients: True if the divergence's chunk is counted beside all of these; False
            if it is gone before the backward pass takes its transient or recomputed blocks.
        quantizes_embedding: True if quantising a teacher while it is loaded includes its embedding
            and head; False if it takes its other layers alone, each of which is made whole again
            while it is applied.
    """

    chunk_bytes: int
    chunk_copies: float
    hidden: float
    intermediate: float
    heads: float
    scores: float
    transient_blocks: float
    recomputed_blocks: float
    boundary: float
    length_multiple: int = 1
    loss_beside_transients: bool = True
    quantizes_embedding: bool = False


@dataclass(frozen=True)
class BackendTraits:
    """Facts about a backend that hold on every machine.

    Attributes:
        extra: the extra of opsd-cli that installs its packages.
        memory: numbers for the memory plan.
        preference: `auto` tries the backend with the highest number first.
        auto_on: computers where `auto` considers it; None for all.
        installed_by_default: True if installing opsd without an extra brings it, on the computers
            of `auto_on`, and it works there without a separate GPU card.
        on_cpu: True if it works on the machine's own memory, where `train.dtype` auto means
            float32; assumed in a plan where its packages are missing and no device can be asked.
        quantizes: True if it can quantise a model while it loads it (`teacher.quantize`).
        quantizer: the package that this takes beside those of `extra`; "" for none.
        shards: True if it can divide a frozen base over several processes (`train.shard`).
    """

    extra: str
    memory: MemoryTraits
    preference: int = 0
    auto_on: tuple[Platform, ...] | None = None
    installed_by_default: bool = False
    on_cpu: bool = False
    shards: bool = False
    quantizes: bool = False
    quantizer: str = ""

    @property
    def install_command(self) -> str:
        """The shell command that installs its packages."""
        return install_command(self.extra)

    @property
    def for_auto_here(self) -> bool:
        """True if `auto` considers it on this kind of computer."""
        return self.auto_on is None or (sys.platform, platform.machine()) in self.auto_on
