"""The type of the fixture `opsd` of tests/unit/grading/conftest.py."""

from __future__ import annotations

from collections.abc import Callable

Opsd = Callable[[str], tuple[int, str, str]]
"""Runs a command line: exit code, stdout and stderr."""
