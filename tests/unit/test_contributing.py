"""What CONTRIBUTING.md and docs/architecture.md cite is in the tree.

A citation is a path, or `path::name` with a name that the file defines: a class, a function, a
method, an attribute or a constant.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("CONTRIBUTING.md", "docs/architecture.md")
#: `a/b.py`, `a/b.py::Name.method`, `a/b/`; NAME stands for the reader's own.
CITED = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+)?)(?:::([\w.]+))?`")
LINKED = re.compile(r"\]\(([^)#]+)\)")
QUESTIONS = 26


def citations(page: str) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(path, name) for path, name in CITED.findall(text) if "NAME" not in path]


@cache
def defined(path: Path) -> frozenset[str]:
    """Dotted names that a module defines at its top level and in its classes."""
    found: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES)
def test_every_cited_file_and_name_exists(page: str) -> None:
    cited = citations(page)
    assert len(cited) > 20
    missing = [
        f"{path}::{name}" if name else path
        for path, name in cited
        if not (ROOT / path).exists() or (name and name not in defined(ROOT / path))
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_linked_page_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [link for link in LINKED.findall(text) if "://" not in link]
    assert linked and not [link for link in linked if not ((ROOT / page).parent / link).exists()]


def test_every_question_is_answered_by_a_citation() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Where is ...?")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == QUESTIONS
    assert not [row for row in rows if not CITED.search(row)]


def test_every_room_is_described() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [
        path.parent.relative_to(ROOT).as_posix()
        for half in ("opsd_cli", "backends")
        for path in (ROOT / half).glob("*/__init__.py")
    ]
    assert not [room for room in rooms if f"`{room}/`" not in text]


def test_the_glossary_has_every_shape_suffix() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    glossary = page.partition("### Shape suffixes")[2].partition("### Terms")[0]
    listed = set(re.findall(r"^\| ([A-Z]) \|", glossary, re.MULTILINE))
    used: set[str] = set()
    for half in ("opsd_cli", "backends"):
        for path in (ROOT / half).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = node.id if isinstance(node, ast.Name) else getattr(node, "arg", None)
                found = re.fullmatch(r"[a-z]\w*_([A-Z1]{1,3})", name or "")
                used.update(found[1] if found else "")
    assert used - {"1"} <= listed
