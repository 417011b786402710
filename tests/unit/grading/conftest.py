"""Commands with a fake backend, for tests of the graders that they use."""

from __future__ import annotations

from tests.support.cli import opsd

__all__ = ["opsd"]
