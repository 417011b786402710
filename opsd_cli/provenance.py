"""What a run ran on, so that a result can be explained later."""

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
    """Versions of the packages that matter, those installed; nothing is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def provenance(backend: str, reason: str) -> dict[str, Any]:
    """Platform, versions and the backend chosen; no names of people, machines or folders."""
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
