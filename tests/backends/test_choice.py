"""The choice of a backend: `auto` on each kind of computer, a named one, and what is declared."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import backends
from backends.interface import Capability
from backends.mlx.traits import MLX
from backends.pytorch.traits import CPU, CUDA
from backends.rollout_engines import ENGINES, get_engine
from backends.traits import BackendTraits, install_command
from opsd_cli.errors import BackendMissing, ConfigError

Machine = Callable[..., None]
SHIPPED = {"mlx": MLX, "cuda": CUDA, "cpu": CPU}


class Available:
    traits: BackendTraits

    def capability(self) -> Capability:
        return Capability(True, f"{type(self).__name__} at work")


class Mlx(Available):
    traits = MLX


class Cuda(Available):
    traits = CUDA


class Cpu(Available):
    traits = CPU


class Missing:
    traits: BackendTraits

    def capability(self) -> Capability:
        return Capability(False, "it is not here", "install it")


class MissingMlx(Missing):
    traits = MLX


class MissingCuda(Missing):
    traits = CUDA


class MissingCpu(Missing):
    traits = CPU


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A kind of computer on which some backends are missing."""

    def made(system: str, processor: str, missing: str = "") -> None:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda: processor)
        for name in SHIPPED:
            prefix = "Missing" if name in missing.split() else ""
            kind = f"{prefix}{name.title()}"
            monkeypatch.setitem(backends.BACKENDS, name, f"tests.backends.test_choice:{kind}")

    return made


@pytest.mark.parametrize(
    ("system", "processor", "missing", "wanted", "because"),
    [
        ("darwin", "arm64", "cuda", "mlx", "Mlx at work"),
        ("darwin", "arm64", "mlx cuda", "cpu", "mlx: it is not here; cuda: it is not here"),
        ("darwin", "x86_64", "cuda", "cpu", "Cpu at work"),
        ("linux", "x86_64", "", "cuda", "Cuda at work"),
        ("linux", "aarch64", "cuda", "cpu", "cuda: it is not here"),
    ],
)
def test_auto_chooses_the_preferred_available_backend_and_says_why(
    machine: Machine, system: str, processor: str, missing: str, wanted: str, because: str
) -> None:
    machine(system, processor, missing)
    choice = backends.choose("auto")
    assert choice.name == wanted and because in choice.reason


def test_on_linux_auto_never_chooses_mlx(machine: Machine) -> None:
    machine("linux", "x86_64", "cuda cpu")
    with pytest.raises(BackendMissing, match="no backend can run here"):
        backends.choose("auto")
    assert backends.choose("mlx").name == "mlx"


def test_a_named_backend_that_is_missing_is_refused_with_a_hint(machine: Machine) -> None:
    machine("darwin", "arm64", "mlx")
    with pytest.raises(BackendMissing, match="backend 'mlx' cannot run here") as caught:
        backends.choose("mlx")
    assert caught.value.hint == "install it"
    with pytest.raises(ConfigError, match="unknown backend 'tpu'"):
        backends.choose("tpu")


@pytest.mark.parametrize(
    ("system", "processor", "order", "default"),
    [
        ("darwin", "arm64", ["mlx", "cuda", "cpu"], "mlx"),
        ("darwin", "x86_64", ["cuda", "cpu"], "cpu"),
        ("linux", "x86_64", ["cuda", "cpu"], "cpu"),
        ("win32", "AMD64", ["cuda", "cpu"], "cpu"),
    ],
)
def test_order_of_preference_on_each_platform(
    machine: Machine, system: str, processor: str, order: list[str], default: str
) -> None:
    machine(system, processor)
    assert backends.order_of_preference() == order
    assert backends.default_without_packages() == default


def test_auto_reports_a_backend_whose_module_cannot_be_imported(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("linux", "x86_64", "cuda")
    monkeypatch.setitem(backends.BACKENDS, "mlx", "not_installed_anywhere:Backend")
    assert backends.order_of_preference() == ["cuda", "cpu", "mlx"]
    assert backends.choose("auto").name == "cpu"
    machine("linux", "x86_64", "cuda cpu")
    monkeypatch.setitem(backends.BACKENDS, "mlx", "not_installed_anywhere:Backend")
    with pytest.raises(BackendMissing, match="needs the package 'not_installed_anywhere'"):
        backends.choose("auto")


def test_traits_and_engines_are_read_without_a_framework() -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'mlx', 'mlx.core', 'mlx_lm', 'vllm', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "import backends\nfrom backends.rollout_engines import ENGINES, get_engine\n"
        "print(*(backends.traits_of(name).install_command for name in backends.BACKENDS))\n"
        "print(*(get_engine(name).separate_from_trainer for name in ENGINES))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    installs, separate = run.stdout.splitlines()
    mlx, *torch = installs.split("pip install ")[1:]
    name = "mlx" if sys.platform == "darwin" else "mlx[cpu]"
    assert sorted(mlx.split()) == ["'mlx-lm<0.33,>=0.32.2'", f"'{name}>=0.32'"]
    assert [sorted(each.split()) for each in torch] == 2 * [
        ["'accelerate>=1.2'", "'peft>=0.18'", "'torch>=2.8'"]
    ]
    assert separate == "False True"


def test_install_command_names_the_extra_where_the_metadata_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert install_command("no-such-extra") == "pip install 'opsd-cli[no-such-extra]'"
    monkeypatch.setattr("backends.traits.DISTRIBUTION", "not-installed-anywhere")
    assert install_command("cuda") == "pip install 'not-installed-anywhere[cuda]'"


def test_every_backend_declares_its_traits() -> None:
    for name, traits in SHIPPED.items():
        assert backends.traits_of(name) is traits
        numbers: dict[str, Any] = dataclasses.asdict(traits.memory)
        assert all(value >= 0 for value in numbers.values()), name
        assert traits.memory.length_multiple >= 1 and traits.memory.chunk_bytes > 0
    assert {name: get_engine(name).title for name in ENGINES}["vllm"] == "vLLM"
