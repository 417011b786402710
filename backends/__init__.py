"""The registry of backends: a name stands for a class that is imported only when asked for."""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsd_cli.errors import BackendMissing, ConfigError

if TYPE_CHECKING:
    from backends.interface import Backend

#: Looked for by `opsd_cli.processes.import_check`: other projects have a package of this name too.
OWNER = "opsd"

#: name -> "module:class". `auto` tries them in the order of `order_of_preference`.
BACKENDS: dict[str, str] = {
    "cuda": "backends.pytorch.backend:CudaBackend",
    "cpu": "backends.pytorch.backend:CpuBackend",
    "mlx": "backends.mlx.backend:MlxBackend",
}


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen, and why, in words fit for a person."""

    name: str
    reason: str


def get(name: str) -> Backend:
    """An instance of the named backend.

    Raises:
        ConfigError: there is no such backend.
        BackendMissing: its packages are not installed, or it is not in this version.
    """
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}", f"choose from auto, {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        missing = error.name or str(error)
        raise BackendMissing(
            f"backend {name!r} needs the package {missing!r}, which is not installed",
            f"pip install 'opsd-cli[{'cuda' if name in ('cuda', 'cpu') else name}]'",
        ) from error


def order_of_preference() -> list[str]:
    """Backend names from most to least wanted on this kind of machine."""
    apple_silicon = sys.platform == "darwin" and platform.machine() == "arm64"
    wanted = ["mlx", "cuda", "cpu"] if apple_silicon else ["cuda", "cpu"]
    return [name for name in wanted if name in BACKENDS]


def usual() -> str:
    """The backend that installing opsd brings on this kind of machine, and that needs no GPU card:
    what to plan for where none is installed."""
    return "mlx" if order_of_preference()[0] == "mlx" else "cpu"


def choose(name: str) -> Choice:
    """Resolve `auto`, or check that the named backend can work here.

    Raises:
        BackendMissing: it cannot, with the reason and the way out.
    """
    if name != "auto":
        found = get(name).capability()
        if not found.available:
            raise BackendMissing(f"backend {name!r} cannot run here: {found.detail}", found.hint)
        return Choice(name, f"asked for: {found.detail}")
    refused: list[str] = []
    hint = ""
    for candidate in order_of_preference():
        try:
            found = get(candidate).capability()
        except BackendMissing as error:
            refused.append(error.message)
            hint = error.hint
            continue
        if found.available:
            because = f" ({'; '.join(refused)})" if refused else ""
            return Choice(candidate, f"{found.detail}{because}")
        refused.append(f"{candidate}: {found.detail}")
        hint = found.hint
    raise BackendMissing("no backend can run here: " + "; ".join(refused), hint)
