"""Layout of the repository: imports between tests, mirrored folders, names, lengths."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("opsd_cli", "backends", "tests", "benchmarks")
MOST_LINES, MOST_FUNCTION_LINES = 350, 60
#: A line of a module's docstring that allows the module more than `MOST_LINES`.
REASON = "Longer than 350 lines: "
#: Lines in a row that must not be the same in `backends/pytorch` and `backends/mlx`.
NEAR_COPY = 10

#: Functions that may have more than `MOST_FUNCTION_LINES`, as "path::function": why.
LONG_FUNCTIONS: dict[str, str] = {
    "backends/pytorch/triton_divergence.py::_kernel": "one GPU kernel",
}

#: Nouns of the field by which `pytest -k` finds the tests of a subject: each is in a test's name.
NOUNS = (
    "adapter", "advantage", "chat_template", "checkpoint", "clip", "config", "divergence",
    "dry_run", "early_stop", "ema", "entropy", "export", "gradient", "grpo", "hub", "hybrid",
    "importance", "interrupt", "interval", "jsd", "learning_rate", "ledger", "lora", "majority",
    "memory_plan", "micro_batch", "min_p", "optimizer", "pass_at_k", "prefetch", "preflight",
    "preset", "prompt", "resample", "resume", "rollout", "seed", "sft", "stop_token", "teacher",
    "token_efficiency", "token_plan", "top_k", "top_p", "tracker", "truncat", "vllm",
    "zero_variance",
)  # fmt: skip


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The syntax trees of all modules, by path from the repository's root."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported_modules(tree: ast.Module) -> set[str]:
    """The names of this repository's modules that a module imports, `a.b.c`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if (ROOT / f"{name.replace('.', '/')}.py").is_file()}


def may_import(path: str, module: str) -> bool:
    """True if a file may import a module of the tests.

    No file imports a `test_*` module or a `conftest`; what tests share is in `tests/support`. A
    fuzzer, `tests/fuzz/NAME.py`, is imported by the tests beside it alone.
    """
    parts = module.split(".")
    if any(part.startswith("test_") or part == "conftest" for part in parts):
        return False
    return parts[:2] != ["tests", "fuzz"] or path.startswith("tests/fuzz/test_")


def function_lengths(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Each function's qualified name and its own lines: those of nested functions are theirs."""

    def visit(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                name = (*names, child.name)
                yield ".".join(name), lines_of(child) - sum(map(lines_of, nested(child)))
                yield from visit(child, name)
            else:
                inner = (*names, child.name) if isinstance(child, ast.ClassDef) else names
                yield from visit(child, inner)

    yield from visit(tree, ())


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a definition from `def` to its end, with docstring, without decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def nested(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions right inside a function, not those inside these."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from nested(child)


def test_layout_no_test_imports_from_another_test() -> None:
    found = {
        f"{path} imports {module}"
        for path, tree in trees().items()
        for module in imported_modules(tree)
        if not may_import(path, module)
    }
    assert not found


def test_layout_every_package_has_its_folder_of_unit_tests() -> None:
    packages = {path.parent.name for path in (ROOT / "opsd_cli").glob("*/__init__.py")}
    tested = {path.parent.name for path in (ROOT / "tests" / "unit").glob("*/test_*.py")}
    assert packages <= tested
    assert tested <= packages, "tests/unit mirrors opsd_cli: no package has these names"


def test_layout_every_noun_of_the_field_is_in_a_test_name() -> None:
    names = {
        node.name
        for path, tree in trees().items()
        if path.startswith("tests/")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    missing = {noun for noun in NOUNS if not any(noun in name for name in names)}
    assert not missing, "pytest -k finds no test by these"


def test_layout_no_ten_lines_are_the_same_in_both_backends() -> None:
    own, others = (windows(ROOT / "backends" / name, NEAR_COPY) for name in ("pytorch", "mlx"))
    assert sorted(own[window] + others[window] for window in own.keys() & others.keys()) == []


def windows(folder: Path, size: int) -> dict[tuple[str, ...], list[str]]:
    """All runs of `size` lines of code in a folder, with the places where they are.

    Imports, comments and lines of brackets alone do not count.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        lines = [
            (number, " ".join(line.split()))
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if line.strip(" ()[]{},:") and not line.lstrip().startswith(("#", "import ", "from "))
        ]
        for start in range(len(lines) - size + 1):
            window = lines[start : start + size]
            place = f"{path.relative_to(ROOT)}:{window[0][0]}"
            found.setdefault(tuple(text for _, text in window), []).append(place)
    return found


def test_layout_no_file_is_long_without_a_reason() -> None:
    found = {}
    for path, tree in trees().items():
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES and REASON not in (ast.get_docstring(tree) or ""):
            found[path] = lines
    assert not found


def test_layout_no_function_is_long_without_a_reason() -> None:
    lengths = {
        f"{path}::{name}": lines
        for path, tree in trees().items()
        for name, lines in function_lengths(tree)
        if lines > MOST_FUNCTION_LINES
    }
    assert LONG_FUNCTIONS.keys() <= lengths.keys(), "an exception that is not needed"
    assert not lengths.keys() - LONG_FUNCTIONS.keys()


@pytest.mark.parametrize(
    ("source", "lengths"),
    [
        ("def a():\n    pass\n", [("a", 2)]),
        (
            "class C:\n    def a(self):\n        def b():\n            pass\n",
            [("C.a", 1), ("C.a.b", 2)],
        ),
        (
            "def a():\n    if x:\n        def b():\n            pass\n    y\n",
            [("a", 3), ("a.b", 2)],
        ),
    ],
)
def test_layout_counts_nested_functions_once(source: str, lengths: list[tuple[str, int]]) -> None:
    assert list(function_lengths(ast.parse(source))) == lengths


@pytest.mark.parametrize(
    ("path", "module", "allowed"),
    [
        ("tests/unit/test_a.py", "tests.support.fakes", True),
        ("tests/unit/test_a.py", "tests.unit.test_b", False),
        ("tests/unit/test_a.py", "tests.backends.conftest.LORA", False),
        ("tests/unit/test_a.py", "tests.fuzz.kills", False),
        ("tests/fuzz/test_kills.py", "tests.fuzz.kills", True),
        ("tests/support/oracle.py", "tests.backends.conftest", False),
        ("benchmarks/step.py", "tests.unit.test_a", False),
    ],
)
def test_layout_knows_what_a_test_may_import(path: str, module: str, allowed: bool) -> None:
    assert may_import(path, module) == allowed
