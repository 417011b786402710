"""The Triton kernel: its cases in a process of its own, and when it is used."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from backends.pytorch import loss_head  # noqa: E402
from opsd_cli.errors import UsageError  # noqa: E402
from opsd_cli.losses.divergence import DivergenceSpec  # noqa: E402
from tests.support.backend_fixtures import Load  # noqa: E402

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and not os.environ.get("CI"),
    reason="triton is not installed",
)


def cases(name: str) -> None:
    """Run a file of cases; without a GPU in Triton's interpreter, which has to be asked for before
    Triton is imported."""
    environment = {**os.environ}
    environment.pop("PYTEST_ADDOPTS", None)  # a coverage gate is for the whole suite
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(HERE / name)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


@needs_triton
def test_triton_kernel_cases() -> None:
    cases("triton_cases.py")


def test_auto_kernel_is_plain_on_a_cpu() -> None:
    logits = torch.zeros(1, 8)
    assert not loss_head._takes_kernel("auto", logits, logits, DivergenceSpec())
    assert loss_head._takes_kernel("triton", logits, logits, DivergenceSpec())
    assert not loss_head._takes_kernel("triton", logits, logits, DivergenceSpec(top_k=3))
    assert not loss_head._takes_kernel("plain", logits, logits, DivergenceSpec())


def test_triton_kernel_without_a_gpu_is_refused(load: Load) -> None:
    if load().description.endswith("cuda"):
        pytest.skip("it can run here")
    with pytest.raises(UsageError, match="needs an NVIDIA or AMD GPU"):
        load(train={"loss_kernel": "triton"})
