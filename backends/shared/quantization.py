"""The values of `teacher.quantize`, and what is said where a teacher cannot be quantised."""

from __future__ import annotations

import importlib.util

from backends.traits import BackendTraits
from opsd_cli.errors import BackendMissing, ModelError, UsageError

#: `teacher.quantize` -> bits of a weight; None leaves the weights as they are stored.
BITS: dict[str, int | None] = {"none": None, "int8": 8, "int4": 4}
#: Weights that share a scale.
GROUP = 64
#: Bits that a group has beside its weights: on MLX a scale and an offset of 16 bits each, on
#: PyTorch a scale of 32 bits.
GROUP_BITS = 32


def require_quantizer(backend: str, traits: BackendTraits, quantize: str) -> None:
    """Check that a backend can do what `teacher.quantize` asks for, without importing anything.

    Raises:
        BackendMissing: the package that it quantises with is not installed.
        UsageError: it quantises nothing.
    """
    if quantize == "none":
        return
    if not traits.quantizes:
        raise UsageError(
            f"teacher.quantize={quantize}: backend {backend} quantises nothing",
            "leave teacher.quantize out, or use another --backend",
        )
    package = traits.quantizer
    if package and importlib.util.find_spec(package) is None:
        raise BackendMissing(
            f"teacher.quantize={quantize} needs {package} on backend {backend}, which is not "
            "installed",
            f"pip install {package}, or leave teacher.quantize out",
        )


def quantised_already(name: str) -> ModelError:
    """The error of a model whose files hold quantised weights."""
    return ModelError(
        f"the weights of {name} are quantised already",
        "leave teacher.quantize out: they are read as they are",
    )


def nothing_to_quantise(name: str) -> ModelError:
    """The error of a model without a layer that a whole number of groups fits."""
    return ModelError(
        f"teacher.quantize: no linear layer of {name} has a width that is a multiple of {GROUP}",
        "leave teacher.quantize out: a model this small needs no quantisation",
    )
