"""The registry of backends: each name refers to a class that is imported on first use.

This is the only list of backend names. The command line, the config, `opsd doctor` and the plans
read it, so a new backend is one folder and one line below. The class implements
`backends.interface.Backend`; its module imports its framework only inside methods, so that its
`traits` can be read where the framework is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.traits import install_command
from opsd_cli.errors import BackendMissing, ConfigError
from opsd_cli.lazy import load

if TYPE_CHECKING:
    from backends.interface import Backend
    from backends.traits import BackendTraits

#: Looked for by `opsd_cli.processes.import_check`: other projects have a package of this name too.
OWNER = "opsd"
#: In place of a name: the best backend that works on this machine.
AUTO = "auto"

#: name -> "module:class", in the order in which people see them.
BACKENDS: dict[str, str] = {
    "mlx": "backends.mlx.backend:MlxBackend",
    "cuda": "backends.pytorch.backend:CudaBackend",
    "cpu": "backends.pytorch.backend:CpuBackend",
}


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen, and a one-line reason for people."""

    name: str
    reason: str


def choices() -> tuple[str, ...]:
    """Every value of the config key `backend` and of `--backend`."""
    return (AUTO, *BACKENDS)


def get(name: str) -> Backend:
    """An instance of the named backend.

    Raises:
        ConfigError: no backend has that name.
        BackendMissing: a package that its module needs is not installed.
    """
    backend: Backend = _class_of(name)()
    return backend


def traits_of(name: str) -> BackendTraits:
    """What the named backend declares; works where its framework is not installed.

    Raises:
        ConfigError: no backend has that name.
        BackendMissing: its module cannot be imported at all.
    """
    traits: BackendTraits = _class_of(name).traits
    return traits


def _class_of(name: str) -> Any:
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}", f"choose from {', '.join(choices())}")
    try:
        return load(BACKENDS[name])
    except ImportError as error:
        missing = error.name or str(error)
        # Its traits, which name the extra, are out of reach: assume an extra of the same name.
        raise BackendMissing(
            f"backend {name!r} needs the package {missing!r}, which is not installed",
            install_command(name),
        ) from error


def order_of_preference() -> list[str]:
    """Backends that `auto` tries on this kind of computer, the best first.

    One whose module cannot be imported comes last, so that the reason can be reported.
    """
    rank: dict[str, float] = {}
    for name in BACKENDS:
        try:
            traits = traits_of(name)
        except BackendMissing:
            rank[name] = float("-inf")
            continue
        if traits.for_auto_here:
            rank[name] = traits.preference
    return sorted(rank, key=lambda name: -rank[name])


def default_without_packages() -> str:
    """The backend to plan for where none can run: the one that installing opsd would bring.

    Raises:
        BackendMissing: none of the registered ones is installed by default.
    """
    for name in order_of_preference():
        if traits_of(name).installed_by_default:
            return name
    raise BackendMissing("no backend is installed by default on this kind of computer")


def choose(name: str, named_by: str = "--backend or the config") -> Choice:
    """Resolve `auto`, or check that the named backend can run on this machine.

    Args:
        named_by: where a name other than `auto` is from, for the reason.

    Raises:
        ConfigError: no backend has that name.
        BackendMissing: it cannot run, with the reason and what to install.
    """
    if name != AUTO:
        found = get(name).capability()
        if not found.available:
            raise BackendMissing(f"backend {name!r} cannot run here: {found.detail}", found.hint)
        return Choice(name, f"{found.detail} (named by {named_by})")
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
