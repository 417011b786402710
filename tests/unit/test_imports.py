"""The shared half needs no backend: every module of it is imported without one."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "mlx", "mlx_lm", "transformers", "peft", "vllm", "datasets")
LOOK = f"""
import importlib, pkgutil, sys
import opsd_cli
for module in pkgutil.walk_packages(opsd_cli.__path__, "opsd_cli."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*(name for name in {HEAVY} if name in sys.modules))
"""


def test_no_module_of_the_shared_half_imports_a_backend_or_a_heavy_library() -> None:
    found = subprocess.run(
        [sys.executable, "-P", "-c", LOOK], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
