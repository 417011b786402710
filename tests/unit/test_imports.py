"""Who imports whom: no heavy library on import, and the contracts of pyproject.toml.

The contracts (`lint-imports`) read the source, so they see an import inside a function too; the
first test runs the imports, so it sees what a library brings with it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "mlx", "mlx_lm", "transformers", "peft", "vllm", "datasets")
LOOK = f"""
import importlib, pkgutil, sys
import opsd_cli
for module in pkgutil.walk_packages(opsd_cli.__path__, "opsd_cli."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*(name for name in {HEAVY} if name in sys.modules))
"""


ROOT = Path(__file__).parents[2]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def test_no_module_of_the_shared_half_imports_a_backend_or_a_heavy_library() -> None:
    found = subprocess.run(
        [sys.executable, "-P", "-c", LOOK], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


def test_the_import_contracts_hold() -> None:
    command = [sys.executable, "-P", "-c", LINT, "--no-cache"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[found.stdout.find("Broken contracts") :]
