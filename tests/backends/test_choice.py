"""Which backend `auto` takes, on which machine, and why."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable

import pytest

import backends
from backends.interface import Capability
from opsd_cli.errors import BackendMissing, ConfigError

Machine = Callable[..., None]


class Here:
    def capability(self) -> Capability:
        return Capability(True, f"{type(self).__name__} at work")


class Mlx(Here): ...


class Cuda(Here): ...


class Cpu(Here): ...


class Missing:
    def capability(self) -> Capability:
        return Capability(False, "it is not here", "install it")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of some kind on which some backends are missing."""

    def made(system: str, processor: str, missing: str = "") -> None:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda: processor)
        for name in ("mlx", "cuda", "cpu"):
            kind = "Missing" if name in missing.split() else name.title()
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
def test_auto_takes_the_best_there_is_and_says_why(
    machine: Machine, system: str, processor: str, missing: str, wanted: str, because: str
) -> None:
    machine(system, processor, missing)
    choice = backends.choose("auto")
    assert choice.name == wanted and because in choice.reason


def test_on_linux_mlx_is_taken_only_when_it_is_asked_for(machine: Machine) -> None:
    machine("linux", "x86_64", "cuda cpu")
    with pytest.raises(BackendMissing, match="no backend can run here"):
        backends.choose("auto")
    assert backends.choose("mlx").name == "mlx"


def test_what_was_asked_for_and_is_missing_is_refused_with_the_way_out(machine: Machine) -> None:
    machine("darwin", "arm64", "mlx")
    with pytest.raises(BackendMissing, match="backend 'mlx' cannot run here") as caught:
        backends.choose("mlx")
    assert caught.value.hint == "install it"
    with pytest.raises(ConfigError, match="unknown backend 'tpu'"):
        backends.choose("tpu")
