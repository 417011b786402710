"""The values of `teacher.quantize`, and what is said where a backend cannot quantise."""

from __future__ import annotations

from opsd_cli.errors import UsageError

#: `teacher.quantize` -> bits of a weight; None leaves the weights as they are stored.
BITS: dict[str, int | None] = {"none": None, "int8": 8, "int4": 4}
#: Weights that share a scale and an offset, of 16 bits each.
GROUP = 64


def quantizes_nothing(quantize: str) -> UsageError:
    """The error of a backend that cannot quantise a model while it loads it."""
    return UsageError(
        f"teacher.quantize={quantize}: PyTorch reads quantised models, but quantises none here",
        "leave teacher.quantize out, name a folder whose weights are quantised, or use "
        "--backend mlx",
    )
