"""A kit and its sections, declared without importing what they measure."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: Import name -> name in the package index, where they differ.
PACKAGE_NAMES = {
    "liger_kernel": "liger-kernel",
    "mlx_lm": "mlx-lm",
    "pytest_timeout": "pytest-timeout",
}


@dataclass(frozen=True)
class Section:
    """One measurement of a kit, run in a child process.

    Attributes:
        name: short, for `--only` and for files.
        title: for people.
        work: "module:function"; the function takes a `benchmarks.proof.recorder.Recorder`.
        seconds: its share of the kit's time, for a kit of nine minutes.
        needs: import names without which the section cannot run at all.
        environment: variables that its process needs.
    """

    name: str
    title: str
    work: str
    seconds: float
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kit:
    """All sections of a kit, in the order in which they run.

    Attributes:
        name: of the package below `benchmarks` and of the files that it writes.
        title: for people.
        sections: the most valuable first.
        packages: import names whose versions are reported.
        device: "module:function" that gives a device's description, or raises `SystemExit` with
            one line where the kit cannot run; it takes `tiny`.
        own_module: where it is, if not in `benchmarks.NAME.kit`.
    """

    name: str
    title: str
    sections: tuple[Section, ...]
    packages: tuple[str, ...]
    device: str
    own_module: str = ""

    @property
    def module(self) -> str:
        """The module whose `KIT` this is."""
        return self.own_module or f"benchmarks.{self.name}.kit"

    def section(self, name: str) -> Section:
        """The section of that name."""
        return next(section for section in self.sections if section.name == name)


def kit_of(module: str) -> Kit:
    """The kit that a module declares as `KIT`."""
    kit: Kit = importlib.import_module(module).KIT
    return kit


def missing(needs: Iterable[str]) -> str | None:
    """The package name of the first that is not installed; None if all are.

    Nothing is imported: a section may have to set a variable before it imports a package.
    """
    for name in needs:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # the package that a dotted name begins with
            found = None
        if found is None:
            return package_name(name)
    return None


def package_name(name: str) -> str:
    """The package that an import name belongs to."""
    return PACKAGE_NAMES.get(name, name)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the installed ones, by package name; the others are "missing"."""
    found: dict[str, str] = {}
    for name in packages:
        package = package_name(name)
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found
