"""Provenance of a result: platform, resources, package versions and backend."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opsd_cli import __version__
from opsd_cli.machine import available_cores, memory_limit

PACKAGES = (
    "torch", "transformers", "peft", "mlx", "mlx-lm", "vllm", "math-verify", "datasets",
    "tokenizers", "safetensors", "numpy", "pydantic", "typer", "rich",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of those `PACKAGES` that are installed; imports none of them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def provenance(backend: str, reason: str) -> dict[str, Any]:
    """Contents of environment.json; without names of users, hosts or folders.

    `memory_usable` is in bytes.

    Args:
        backend: name of the backend in use.
        reason: why it was chosen.
    """
    return {
        "opsd": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cores_usable": available_cores(),
        "memory_usable": memory_limit(),
        "backend": backend,
        "backend_reason": reason,
        "packages": package_versions(),
    }
