"""The project's tasks: `nox -l` lists them, `nox` runs lint, types and test.

    nox -s test-fast              # under a minute on two cores
    nox -s test -- -k top_p       # what follows -- goes to pytest
    nox -s bench -- step --help   # one script of benchmarks/

Tasks run in the environment that nox is installed in (`pip install -e '.[dev]'`), since one of
their own for each would install PyTorch each time; `release` alone makes its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.10"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "test"]

ROOT = Path(__file__).parent
FAST = "not slow and not mlx and not gpu and not real"
#: Pages that a program writes, and the module that prints each.
GENERATED = {
    "docs/config.md": "opsd_cli.config.reference",
    "docs/errors.md": "tests.support.bad_input",
}


def tool(name: str) -> str:
    """A program of the environment that nox itself runs in, whether it is activated or not."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def python(session: nox.Session, *arguments: str) -> None:
    session.run(sys.executable, *arguments, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and the contracts about who imports whom."""
    session.run(tool("ruff"), "check", ".", external=True)
    session.run(tool("ruff"), "format", "--check", ".", external=True)
    session.run(tool("lint-imports"), external=True)


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    python(session, "-m", "mypy")


@nox.session
def test(session: nox.Session) -> None:
    """The whole suite."""
    python(session, "-m", "pytest", *session.posargs)


@nox.session(name="test-fast")
def test_fast(session: nox.Session) -> None:
    """The unit tests without the slow ones, in under a minute on two cores."""
    python(session, "-m", "pytest", "-m", FAST, "tests/unit", *session.posargs)


@nox.session
def real(session: nox.Session) -> None:
    """The commands on a pretrained model, which is made from packages on PyPI."""
    # One process: a second would need the model's memory twice.
    wanted = {} if os.environ.get("OPSD_REAL_DIR") else {"OPSD_REAL": "1"}
    session.run(
        sys.executable, "-m", "pytest", "-n", "0", "tests/real", *session.posargs,
        external=True, env=wanted,
    )  # fmt: skip


@nox.session
def coverage(session: nox.Session) -> None:
    """The whole suite with its coverage, which must reach `fail_under` of pyproject.toml."""
    # The interpreter's own monitoring costs next to nothing, but needs Python 3.12.
    core = {"COVERAGE_CORE": "sysmon"} if sys.version_info >= (3, 12) else {}
    session.run(
        sys.executable, "-m", "pytest", "--cov", "--cov-report=term", *session.posargs,
        external=True, env=core,
    )  # fmt: skip


@nox.session
def bench(session: nox.Session) -> None:
    """One script of benchmarks/ with its options; by default the loss head, a minute."""
    name, *options = session.posargs or ("loss_memory", "--form", "chunked", "--form", "dense")
    python(session, f"benchmarks/{name}.py", *options)


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages and the tables of docs/measured.md again."""
    for page, module in GENERATED.items():
        printed = session.run(sys.executable, "-m", module, external=True, silent=True)
        (ROOT / page).write_text(str(printed), encoding="utf-8")
    python(session, "-m", "benchmarks.tables")


@nox.session(venv_backend="venv")
def release(session: nox.Session) -> None:
    """Build sdist and wheel into dist/, and check what an index would read of them."""
    session.install("build", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, sorted((ROOT / "dist").iterdir())))
