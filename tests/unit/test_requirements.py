"""The packages that opsd asks pip for."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_requirements_ask_for_extras_under_the_names_that_packages_give_them() -> None:
    """Some versions of pip compare the names as they are written, and warn of the others."""
    asked = map(Requirement, tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    for requirement in asked:
        given = importlib.metadata.metadata(requirement.name).get_all("Provides-Extra") or []
        assert requirement.extras <= set(given), str(requirement)


def test_requirements_name_the_parser_of_the_grader() -> None:
    asked = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    assert "antlr4-python3-runtime" in {Requirement(text).name for text in asked}
